package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What one process created another one starts, with the descriptors that it was given.
func TestParkedContainerIsStartedByAnother(t *testing.T) {
	o := options(t, "sh", "-c", "cat <&3; echo $0 done")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in, err := os.Open("/proc/sys/kernel/ostype")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	o.Stdio.Out, o.Files = w, []*os.File{in}
	c := newContainer(t, o)
	w.Close()
	socket := filepath.Join(t.TempDir(), "start.sock")
	if err := c.Park(socket); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(context.Background()); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("start after park: %v", err)
	}
	status := func(want specs.ContainerState) {
		t.Helper()
		if got, err := c.State().Status(socket); err != nil || got != want {
			t.Errorf("status %q, %v; want %q", got, err, want)
		}
	}
	status(specs.StateCreated)
	other, err := Adopt(context.Background(), c.State(), o.Spec, AdoptOptions{Parked: socket})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Pause(context.Background()); err != nil {
		t.Fatal(err)
	}
	status(StatusPaused)
	if err := other.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := other.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	out, exit := finish(t, c.Init(), r)
	if out != "Linux\nsh done\n" || exit.Code != 0 {
		t.Errorf("output %q, exit %+v", out, exit)
	}
	status(specs.StateStopped)
	if _, err := Adopt(context.Background(), c.State(), o.Spec, AdoptOptions{Parked: socket}); err != nil {
		t.Errorf("adopting what has ended: %v", err)
	}
}

// A spec that forbids all devices still gets the default ones.
func TestDefaultDevicesAreAlwaysPermitted(t *testing.T) {
	o := options(t, "sh", "-c", "echo x >/dev/null && test -c /dev/tty && echo fine")
	o.Spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	if out, exit := run(t, o); out != "fine\n" {
		t.Errorf("output %q, exit %+v", out, exit)
	}
}

// A profile from before close_range(2) and openat2(2) is no obstacle, though it is loaded before
// privileges are dropped: the program was not promised no_new_privs.
func TestOldSeccompProfileLetsTheProgramStart(t *testing.T) {
	o := options(t, "echo", "fine")
	o.Spec.Process.NoNewPrivileges = false
	enosys := uint(38)
	o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Action: specs.ActErrno, ErrnoRet: &enosys, Names: []string{"close_range", "openat2", "fsopen", "statx", "clone3"}}},
	}
	if out, exit := run(t, o); out != "fine\n" {
		t.Errorf("output %q, exit %+v", out, exit)
	}
}

// mountinfo shows the mounts in the order of the spec, binds among them.
func TestMountsAreListedInTheirOrder(t *testing.T) {
	o := options(t, "cat", "/proc/self/mountinfo")
	o.Spec.Mounts = append(o.Spec.Mounts,
		specs.Mount{Destination: "/mnt/a", Type: "bind", Source: "/etc", Options: []string{"rbind"}},
		specs.Mount{Destination: "/mnt/b", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/mnt/c", Type: "bind", Source: "/etc", Options: []string{"bind"}})
	out, _ := run(t, o)
	at := -1
	for _, m := range []string{"/proc", "/dev", "/dev/pts", "/mnt/a", "/mnt/b", "/mnt/c"} {
		i := strings.Index(out, " "+m+" ")
		if i <= at {
			t.Errorf("%s is out of order in\n%s", m, out)
		}
		at = i
	}
}
