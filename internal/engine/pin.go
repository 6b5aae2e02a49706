package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// PinOptions says which namespaces to make for a pod's containers to join.
type PinOptions struct {
	// Dir gets one file a namespace, named as in /proc/PID/ns: "ipc", "uts". It exists.
	Dir      string
	IPC, UTS bool
	// Hostname is that of the UTS namespace; empty leaves the host's.
	Hostname string
	// Sysctls of the IPC namespace ("kernel.shmmax", "fs.mqueue.…").
	Sysctls map[string]string
}

// PinNamespaces makes namespaces and binds them to files, so that they live without any process. What is
// pinned already stays as it is.
func PinNamespaces(_ context.Context, o PinOptions) error {
	kinds := []struct {
		name string
		flag int
		want bool
	}{{"ipc", unix.CLONE_NEWIPC, o.IPC}, {"uts", unix.CLONE_NEWUTS, o.UTS}}
	flags := 0
	var names []string
	for _, k := range kinds {
		if k.want && !pinned(filepath.Join(o.Dir, k.name)) {
			flags |= k.flag
			names = append(names, k.name)
		}
	}
	if flags == 0 {
		return nil
	}
	errs := make(chan error, 1)
	go func() {
		// The thread has left the host's namespaces: never unlocked, it ends with this goroutine.
		runtime.LockOSThread()
		errs <- pin(o, flags, names)
	}()
	if err := <-errs; err != nil {
		return fmt.Errorf("pin namespaces at %s: %w", o.Dir, err)
	}
	return nil
}

func pin(o PinOptions, flags int, names []string) error {
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if o.Hostname != "" && flags&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte(o.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", o.Hostname, err)
		}
	}
	if flags&unix.CLONE_NEWIPC != 0 {
		for k, v := range o.Sysctls {
			if t, ok := sysctlNamespace(k); !ok || t != specs.IPCNamespace {
				return fmt.Errorf("sysctl %q is not one of an IPC namespace", k)
			}
			if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(k, ".", "/"), []byte(v), 0); err != nil {
				return fmt.Errorf("set sysctl %s: %w", k, err)
			}
		}
	}
	for _, name := range names {
		target := filepath.Join(o.Dir, name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount("/proc/thread-self/ns/"+name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
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
	for _, name := range []string{"ipc", "uts"} {
		path := filepath.Join(dir, name)
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
