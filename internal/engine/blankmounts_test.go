package engine

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// TestBlankMounts: what containers begin with has an empty root and the host's /dev/null, however many mounts the host has.
func TestBlankMounts(t *testing.T) {
	needRoot(t)
	var b BlankMounts
	if err := b.Prepare(); err != nil {
		t.Fatal(err)
	}
	if b.ns == nil {
		t.Skip("there is none: this is a user namespace, or the root directory can't be pivoted")
	}
	defer b.ns.Close()
	proc, err := os.Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	var mounts, root, written string
	err = sys.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(int(b.ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return err
		}
		fd, err := unix.Openat(int(proc.Fd()), "thread-self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "mountinfo")
		defer f.Close()
		for buf := make([]byte, 4096); ; {
			n, err := f.Read(buf)
			if n == 0 || err != nil {
				break
			}
			mounts += string(buf[:n])
		}
		names, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		root = fmt.Sprint(names)
		if err := os.WriteFile("/file", nil, 0o600); err != nil {
			written = err.Error()
		}
		return os.WriteFile("/dev/null", []byte("x"), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(mounts, "\n"); n != 2 {
		t.Errorf("it has %d mounts, not the root and /dev/null:\n%s", n, mounts)
	}
	if root != "[d dev/]" {
		t.Errorf("its root has %s", root)
	}
	if !strings.Contains(written, "read-only") {
		t.Errorf("a file in its root was made: %q", written)
	}
}

// TestMountsOfTheHostsPaths: a filesystem that is made of the host's directories is found, although there are none of them in what
// containers begin with.
func TestMountsOfTheHostsPaths(t *testing.T) {
	lower := t.TempDir()
	if err := os.WriteFile(lower+"/file", []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := options(t, "cat", "/mnt/file")
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{
		Destination: "/mnt", Type: "overlay", Source: "overlay", Options: []string{"ro", "lowerdir=" + lower + ":" + t.TempDir()},
	})
	if blankFor(o) != nil {
		t.Error("it begins in an empty mount namespace")
	}
	check(t, o, "of the host")
}
