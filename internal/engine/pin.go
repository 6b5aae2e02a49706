package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
	"github.com/11f9778f/berth/internal/sys"
)

// PinOptions says which namespaces to make for a pod's containers to join.
type PinOptions struct {
	// Dir gets one file a namespace, named as in /proc/PID/ns: "ipc", "uts", "net", "user". It exists.
	Dir           string
	IPC, UTS, Net bool
	// Hostname is that of the UTS namespace; empty leaves the host's.
	Hostname string
	// Sysctls of the namespaces that are made ("kernel.shmmax", "net.core.somaxconn").
	Sysctls map[string]string
	// User asks for a user namespace with these maps, which owns the others.
	User *IDMappings
	// UserPath is a user namespace that is there already (that of another Dir, say) and owns those made here.
	UserPath string
}

// pinKinds in the order in which they are bound: the user namespace is there before what it owns.
var pinKinds = []specs.LinuxNamespaceType{specs.UserNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace}

// PinNamespaces makes namespaces and binds them to files, so that they live without any process. What is
// pinned already stays as it is.
func PinNamespaces(ctx context.Context, o PinOptions) error {
	var kinds []specs.LinuxNamespaceType
	flags := uintptr(0)
	want := map[specs.LinuxNamespaceType]bool{
		specs.IPCNamespace: o.IPC, specs.UTSNamespace: o.UTS, specs.NetworkNamespace: o.Net, specs.UserNamespace: o.User != nil,
	}
	for _, k := range pinKinds {
		if want[k] && !pinned(filepath.Join(o.Dir, procName[k])) {
			kinds = append(kinds, k)
			flags |= cloneFlags[k]
		}
	}
	if flags == 0 {
		return nil
	}
	if err := pin(ctx, o, flags, kinds); err != nil {
		return fmt.Errorf("pin namespaces at %s: %w", o.Dir, err)
	}
	return nil
}

// pin makes the namespaces around a child that lives for a moment, and binds those that it is in.
func pin(ctx context.Context, o PinOptions, flags uintptr, kinds []specs.LinuxNamespaceType) error {
	owner := o.UserPath
	if o.User != nil {
		if err := o.User.check("user"); err != nil {
			return err
		}
		if flags&unix.CLONE_NEWUSER == 0 { // an earlier call has made it
			owner = filepath.Join(o.Dir, "user")
		}
	}
	if owner == "" && flags&^(unix.CLONE_NEWIPC|unix.CLONE_NEWUTS) == 0 && len(o.Sysctls) == 0 {
		return pinByThread(o, flags, kinds)
	}
	if owner == "" && flags&unix.CLONE_NEWUSER == 0 {
		return bornIn(flags, func(s *stage.Stage) error { return furnishPin(ctx, s, o, flags, kinds) })
	}
	if owner == "" {
		return bornIn(0, func(s *stage.Stage) error {
			if err := s.Fork(ctx, flags); err != nil {
				return err
			}
			return furnishPin(ctx, s, o, flags, kinds)
		})
	}
	user, err := openNamespace(specs.LinuxNamespace{Type: specs.UserNamespace, Path: owner})
	if err != nil {
		return err
	}
	defer user.Close()
	return bornIn(0, func(s *stage.Stage) error {
		p := &stage.Program{}
		p.Do("join user namespace "+owner, unix.SYS_SETNS, p.File(user), stage.Int(unix.CLONE_NEWUSER))
		namespaceRoot(p)
		p.Do("new namespaces", unix.SYS_UNSHARE, stage.Int(flags))
		if err := s.Run(ctx, p); err != nil {
			return err
		}
		return furnishPin(ctx, s, o, flags, kinds)
	})
}

// furnishPin sets what the options say inside the namespaces of s, and binds them.
func furnishPin(ctx context.Context, s *stage.Stage, o PinOptions, flags uintptr, kinds []specs.LinuxNamespaceType) error {
	p := &stage.Program{}
	if flags&unix.CLONE_NEWUSER != 0 {
		if err := writeMaps(s.Pid, o.User.UID, o.User.GID); err != nil {
			return err
		}
		namespaceRoot(p)
	}
	if o.Hostname != "" && flags&unix.CLONE_NEWUTS != 0 {
		p.Do("set hostname "+o.Hostname, unix.SYS_SETHOSTNAME, p.String(o.Hostname), stage.Int(len(o.Hostname)))
	}
	list := map[string]string{}
	for k, v := range o.Sysctls {
		t, ok := sysctlNamespace(k)
		switch {
		case !ok:
			return fmt.Errorf("sysctl %q belongs to no namespace", k)
		case flags&cloneFlags[t] != 0:
			list[k] = v
		case !pinned(filepath.Join(o.Dir, procName[t])):
			return fmt.Errorf("sysctl %q belongs to a %s namespace, and none is made", k, t)
		}
	}
	if len(list) > 0 {
		proc, err := hostProc()
		if err != nil {
			return err
		}
		writeSysctls(p, proc, list, stage.Answered(0))
	}
	if !p.Empty() {
		if err := s.Run(ctx, p); err != nil {
			return err
		}
	}
	for _, k := range kinds {
		if err := bindNamespace(strconv.Itoa(s.Pid), procName[k], filepath.Join(o.Dir, procName[k])); err != nil {
			return err
		}
	}
	return nil
}

// pinByThread makes IPC and UTS namespaces around a thread of this very process, which costs no child: most pods need
// no more.
func pinByThread(o PinOptions, flags uintptr, kinds []specs.LinuxNamespaceType) error {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = procName[k]
	}
	return sys.OnThreadAndBack(names, func() error { return makePins(o, flags, kinds) })
}

// makePins runs on the thread that gets the namespaces.
func makePins(o PinOptions, flags uintptr, kinds []specs.LinuxNamespaceType) error {
	if err := unix.Unshare(int(flags)); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if o.Hostname != "" && flags&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set hostname %s: %w", o.Hostname, err)
		}
	}
	for _, k := range kinds {
		if err := bindNamespace("thread-self", procName[k], filepath.Join(o.Dir, procName[k])); err != nil {
			return err
		}
	}
	return nil
}

// bindNamespace binds a namespace of the process or thread that /proc calls so.
func bindNamespace(who, name, target string) error {
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	if err := unix.Mount("/proc/"+who+"/ns/"+name, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

// pinned reports whether path is a namespace file.
func pinned(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// UnpinNamespaces releases what PinNamespaces bound in dir; what is not there is no error.
func UnpinNamespaces(dir string) error {
	var errs []error
	for _, k := range pinKinds {
		path := filepath.Join(dir, procName[k])
		for pinned(path) {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				errs = append(errs, fmt.Errorf("unpin %s: %w", path, err))
				break
			}
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
