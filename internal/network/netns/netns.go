// Package netns keeps the pods' network namespaces: made, brought up, and pinned by a bind mount on a file
// named after the owner, so that they live without a process in them.
//
// The pin is made last: a namespace that is pinned is complete. A pin file without a mount is what a crash
// left of a namespace that never was; Create finishes it and Remove removes it.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

// Dir is the folder of the pins.
type Dir string

// Path returns the path of id's pin.
func (d Dir) Path(id string) string { return filepath.Join(string(d), id) }

// Create makes and pins a namespace for id, with lo up and the net.* sysctls set, and returns the pin's path.
// One that is pinned already is returned as it is. A failed Create leaves nothing.
func (d Dir) Create(id string, sysctls map[string]string) (string, error) {
	return d.pin(id, sysctls, sys.NewNetNS)
}

// Use is Create with a namespace that Spare has made. used is false where another one is pinned already.
func (d Dir) Use(id string, ns *os.File, sysctls map[string]string) (path string, used bool, err error) {
	path, err = d.pin(id, sysctls, func(path string, inside func() error) error {
		used = true
		if len(sysctls) > 0 {
			if err := sys.InNetNS(ns, inside); err != nil { // lo is up already, and stays so
				return err
			}
		}
		return sys.BindNetNS(path, ns)
	})
	return path, used, err
}

// Spare makes a namespace with lo up that is nobody's yet, and a connection in it. It goes with the file and the
// connection.
func Spare() (ns *os.File, inside *rtnl.Conn, err error) {
	ns, err = sys.SpareNetNS(func() (err error) {
		if inside, err = rtnl.Dial(nil); err != nil {
			return err
		}
		return inside.LinkUp(1)
	})
	if err != nil && inside != nil {
		inside.Close()
		inside = nil
	}
	return ns, inside, err
}

// Adopt pins a namespace for id that is there already, at the path from; for the rest it is Create.
func (d Dir) Adopt(id, from string) (string, error) {
	return d.pin(id, nil, func(path string, inside func() error) error {
		ns, err := sys.OpenNetNS(from)
		if err != nil {
			return err
		}
		defer ns.Close()
		return sys.PinNetNS(path, ns, inside)
	})
}

func (d Dir) pin(id string, sysctls map[string]string, bind func(path string, inside func() error) error) (string, error) {
	path := d.Path(id)
	if ns, err := sys.OpenNetNS(path); err == nil {
		return path, ns.Close()
	}
	files, err := sysctlFiles(sysctls)
	if err != nil {
		return "", err
	}
	if err := d.touch(path); err != nil {
		return "", err
	}
	err = failpoint.Here("network/netns/pin/before")
	if err == nil {
		err = bind(path, func() error { return setUp(files) })
	}
	if err == nil {
		err = failpoint.Here("network/netns/pin/after")
	}
	if err != nil {
		if undo := d.Remove(id); undo != nil {
			err = errors.Join(err, undo)
		}
		return "", err
	}
	return path, nil
}

// touch makes the file that the pin is mounted on, and its folder with it.
func (d Dir) touch(path string) error {
	if err := failpoint.Here("network/netns/file/before"); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(string(d), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
		}
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return failpoint.Here("network/netns/file/after")
}

// setUp runs inside the new namespace.
func setUp(files []sysctl) error {
	c, err := rtnl.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.LinkUp(1); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	for _, f := range files {
		if err := os.WriteFile(f.path, []byte(f.value), 0); err != nil {
			return fmt.Errorf("set sysctl %s to %q: %w", f.name, f.value, err)
		}
	}
	return nil
}

// Remove removes id's pin. A missing one is success. The kernel removes the namespace when the last process
// and descriptor is out of it.
func (d Dir) Remove(id string) error {
	path := d.Path(id)
	if err := failpoint.Here("network/netns/unpin/before"); err != nil {
		return err
	}
	for range maxPins {
		ns, err := sys.OpenNetNS(path)
		if err != nil {
			break
		}
		ns.Close()
		if err := sys.Unpin(path); err != nil {
			return err
		}
	}
	if err := failpoint.Here("network/netns/unlink/before"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return failpoint.Here("network/netns/unlink/after")
}

// maxPins bounds how many mounts on one pin are taken off. There is one, unless somebody else mounted too.
const maxPins = 8

// List returns the ids that have a pin file.
func (d Dir) List() ([]string, error) {
	names, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		out = append(out, n.Name())
	}
	return out, nil
}

// Pinned reports whether id's file is a pinned namespace.
func (d Dir) Pinned(id string) bool {
	ns, err := sys.OpenNetNS(d.Path(id))
	if err != nil {
		return false
	}
	ns.Close()
	return true
}

type sysctl struct{ name, path, value string }

// sysctlFiles returns the files of sysctls, sorted, or an error if one is not the network's.
func sysctlFiles(sysctls map[string]string) ([]sysctl, error) {
	var out []sysctl
	for name, value := range sysctls {
		path, err := sysctlPath(name)
		if err != nil {
			return nil, err
		}
		out = append(out, sysctl{name, path, value})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].path < out[j].path })
	return out, nil
}

// sysctlPath returns the file of a sysctl. As in sysctl(8), the first separator decides: net.ipv4.x, or
// net/ipv4/x where parts may have dots.
func sysctlPath(name string) (string, error) {
	parts := strings.Split(name, "/")
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		parts = strings.Split(name, ".")
		for i, p := range parts {
			parts[i] = strings.ReplaceAll(p, "/", ".")
		}
	}
	if len(parts) < 2 || parts[0] != "net" {
		return "", fmt.Errorf("sysctl %q is not one of the network's, whose names start with net", name)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\x00") {
			return "", fmt.Errorf("sysctl %q is not a name", name)
		}
	}
	return "/proc/sys/" + strings.Join(parts, "/"), nil
}
