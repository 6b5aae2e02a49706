package machine_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/runtime"
)

// A pod with a user namespace: its root is nobody on the host, and root of its own network, volumes and
// files. Two containers share everything; a daemon that comes later knows it all.
func TestUserNamespace(t *testing.T) {
	const root = 300000
	for _, host := range []bool{false, true} {
		t.Run(map[bool]string{true: "host network", false: "bridge"}[host], func(t *testing.T) {
			p := newPlace(t)
			d := p.open(t)
			ctx := context.Background()
			spec := p.pod("userns", host)
			maps := []runtime.IDMapping{{HostID: root, Length: 65536}}
			spec.User = &runtime.UserNamespace{UIDs: maps, GIDs: maps}
			spec.Namespaces.PID = runtime.NamespacePod
			if !host {
				spec.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shmmni": "4094"}
			}
			sb, err := d.rt.RunSandbox(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			volume := filepath.Join(p.Dir, "volume")
			if err := os.MkdirAll(volume, 0o755); err != nil {
				t.Fatal(err)
			}
			c := shell("main", "sleep 1000")
			c.Mounts = []runtime.Mount{{ContainerPath: "/v", HostPath: volume, UIDMap: maps, GIDMap: maps}}
			c.Security.AddCapabilities = []string{"NET_ADMIN"}
			id, err := d.start(ctx, sb, c)
			if err != nil {
				t.Fatal(err)
			}
			other, err := d.start(ctx, sb, runtime.ContainerSpec{Name: "other", Image: "test.local/busybox:1", Command: []string{"/bin/sleep", "1001"}})
			if err != nil {
				t.Fatal(err)
			}
			d.checkUserNamespace(t, id, volume, root, host)
			d.close()
			d = p.open(t)
			if got := d.exec(t, other, "cat /proc/self/uid_map | busybox tr -s ' '; ls /proc | grep -c ^1$"); got != "0 300000 65536\n1" {
				t.Errorf("after a restart: %q", got)
			}
			if err := d.rt.StopSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			d.checkEmpty(t)
		})
	}
}

func (d *daemon) checkUserNamespace(t *testing.T, id, volume string, root uint32, host bool) {
	t.Helper()
	st, err := d.rt.Container(id)
	if err != nil {
		t.Fatal(err)
	}
	var info syscall.Stat_t
	if err := syscall.Stat(filepath.Join("/proc", pidOf(st)), &info); err != nil || info.Uid != root {
		t.Errorf("on the host the process belongs to %d: %v", info.Uid, err)
	}
	for _, c := range []struct{ script, want string }{ // the last looks at what the one before has made
		{"busybox stat -c %u:%g /etc/hosts /etc/resolv.conf /dev/shm /bin/busybox", map[bool]string{false: "0:0\n0:0\n0:0\n0:0"}[host]},
		{"echo x > /dev/shm/x && echo x > /etc/new && echo x > /v/x && echo ok", "ok"},
		{"busybox stat -c %u /v/x", "0"},
	} {
		if got := d.exec(t, id, c.script); c.want != "" && got != c.want {
			t.Errorf("%s: %q", c.script, got)
		}
	}
	if err := syscall.Stat(filepath.Join(volume, "x"), &info); err != nil || info.Uid != 0 {
		t.Errorf("a file in the volume belongs to %d: %v", info.Uid, err)
	}
	if host {
		return
	}
	for script, want := range map[string]string{
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni": "80\n4094",
		"ip addr add 192.0.2.77/32 dev lo && echo made":                             "made",
		"hostname": "userns",
	} {
		if got := d.exec(t, id, script); got != want {
			t.Errorf("%s: %q", script, got)
		}
	}
}

func pidOf(st runtime.ContainerStatus) string { return strconv.Itoa(st.Pid) }
