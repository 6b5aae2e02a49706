package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mappedRoot = 200000

func podMaps() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: mappedRoot, Size: 65536}}
}

// needMaps skips where the filesystem of temporary files can't be id-mapped: tmpfs can since Linux 6.3.
func needMaps(t testing.TB) {
	t.Helper()
	needRoot(t)
	ns, err := newUserNamespace(IDMappings{UID: podMaps(), GID: podMaps()})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	tree, err := bindMapped(t.TempDir(), mountOptions{}, ns)
	if err != nil {
		t.Skip(err)
	}
	tree.Close()
}

// userOptions is a container in a user namespace of its own, over an overlay with id-mapped lower layers.
func userOptions(t testing.TB, args ...string) CreateOptions {
	t.Helper()
	needMaps(t)
	o := options(t, args...)
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	o.Spec.Linux.UIDMappings, o.Spec.Linux.GIDMappings = podMaps(), podMaps()
	lower := o.Spec.Root.Path
	dir := t.TempDir()
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o.Rootfs = []Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work, "uidmap=0:200000:65536", "gidmap=0:200000:65536",
	}}}
	return o
}

func TestUserNamespace(t *testing.T) {
	o := userOptions(t, "sh", "-c", `
		cat /proc/self/uid_map | tr -s ' '; id -u; stat -c %u:%g /bin/busybox
		echo new > /etc/new; stat -c %u /etc/new; echo null > /dev/null; dd if=/dev/zero of=/dev/full bs=1 count=1 2>&1 | grep -c 'No space'
		grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted; ls /sys/class/net; mkdir /etc/d
		hostname mine && hostname; chmod 666 /dev/null 2>/dev/null || echo not ours; mknod /tmp/n c 1 3 2>/dev/null || echo no nodes`)
	for _, a := range []string{"tr", "chmod"} {
		if err := os.Symlink("busybox", filepath.Join(o.Spec.Root.Path, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	o.Spec.Process.Capabilities.Effective = append(o.Spec.Process.Capabilities.Effective, "CAP_SYS_ADMIN")
	o.Spec.Process.Capabilities.Permitted = append(o.Spec.Process.Capabilities.Permitted, "CAP_SYS_ADMIN")
	o.Spec.Process.Capabilities.Bounding = append(o.Spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	before := mountTable(t)
	check(t, o, "0 200000 65536\n0\n0:0\n0\n1\nCapEff:\t00000000a82425fb\nmounted\nlo\nmine\nnot ours\nno nodes")
	upper := strings.TrimPrefix(o.Rootfs[0].Options[1], "upperdir=")
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(upper, "etc/new"), &st); err != nil || st.Uid != mappedRoot {
		t.Errorf("what the container's root wrote belongs to %d on the host: %v", st.Uid, err)
	}
	if after := mountTable(t); after != before {
		t.Errorf("mounts on the host changed:\n%s", after)
	}
}

func TestUserNamespaceExecAndTerminal(t *testing.T) {
	o := userOptions(t, "sh", "-c", "tty; echo x > /dev/console; while test ! -e /tmp/go; do sleep 1; done; exit 4")
	o.Spec.Process.Terminal = true
	if err := os.Chmod(filepath.Join(o.Spec.Root.Path, "tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	r, w, _ := os.Pipe()
	defer r.Close()
	p := *o.Spec.Process
	p.Terminal = false
	p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7}}
	p.Args = []string{"sh", "-c", "id -u; id -G; cat /proc/self/uid_map | grep -c 200000; touch /tmp/go; readlink /proc/self/ns/user"}
	proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p, Stdio: Stdio{Out: w, Err: w}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, st := finish(t, proc, r)
	if !strings.HasPrefix(out, "1000\n1000 7\n1\nuser:") || st.Code != 0 {
		t.Errorf("output %q, status %+v", out, st)
	}
	if host, _ := os.Readlink("/proc/self/ns/user"); strings.Contains(out, host) {
		t.Error("the process is in the host's user namespace")
	}
	buf := make([]byte, 100)
	if n, err := c.Init().Console().Read(buf); err != nil || !strings.Contains(string(buf[:n]), "/dev/pts/0") {
		t.Errorf("terminal: %q, %v", buf[:n], err)
	}
	if _, st := finish(t, c.Init(), strings.NewReader("")); st.Code != 4 {
		t.Errorf("status %+v", st)
	}
}

func TestPodUserNamespace(t *testing.T) {
	needRoot(t)
	network, rest := t.TempDir(), t.TempDir()
	ctx := context.Background()
	// As a node does it: the network's namespace first, then a shim makes the others for the same owner.
	pins := []PinOptions{
		{Dir: network, Net: true, User: &IDMappings{UID: podMaps(), GID: podMaps()}, Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80"}},
		{Dir: rest, IPC: true, UTS: true, UserPath: filepath.Join(network, "user"), Hostname: "pod", Sysctls: map[string]string{"kernel.shmmni": "4094"}},
	}
	for range 2 {
		for _, p := range pins {
			if err := PinNamespaces(ctx, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer UnpinNamespaces(rest)
	defer UnpinNamespaces(network)
	o := userOptions(t, "sh", "-c", "hostname; cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/class/net; ls -d /dev/mqueue; id -u")
	paths := map[specs.LinuxNamespaceType]string{
		specs.UserNamespace: network + "/user", specs.NetworkNamespace: network + "/net", specs.IPCNamespace: rest + "/ipc", specs.UTSNamespace: rest + "/uts",
	}
	for n, ns := range o.Spec.Linux.Namespaces {
		o.Spec.Linux.Namespaces[n].Path = paths[ns.Type]
	}
	check(t, o, "pod\n4094\n80\nlo\n/dev/mqueue\n0")

	// A network namespace that belongs to the host's user namespace: sysfs still shows it and nothing else.
	hostNet := t.TempDir()
	if err := PinNamespaces(ctx, PinOptions{Dir: hostNet, Net: true}); err != nil {
		t.Fatal(err)
	}
	defer UnpinNamespaces(hostNet)
	o2 := userOptions(t, "sh", "-c", "ls /sys/class/net; cat /proc/self/gid_map | grep -c 200000")
	for n, ns := range o2.Spec.Linux.Namespaces {
		paths[specs.NetworkNamespace] = hostNet + "/net"
		o2.Spec.Linux.Namespaces[n].Path = paths[ns.Type]
	}
	check(t, o2, "lo\n1")
}

func TestUserNamespaceOnTheHostsNamespaces(t *testing.T) {
	o := userOptions(t, "sh", "-c", "test -e /proc/1/comm && test $$ != 1 && echo host pids; test -d /sys/class/net && echo sys; test -d /dev/mqueue && echo mqueue")
	var keep []specs.LinuxNamespace
	for _, ns := range o.Spec.Linux.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace:
		default:
			keep = append(keep, ns)
		}
	}
	o.Spec.Linux.Namespaces = keep
	check(t, o, "host pids\nsys\nmqueue")
}

func TestIDMappedMounts(t *testing.T) {
	needMaps(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "file"), 5, 6); err != nil {
		t.Fatal(err)
	}
	own := []specs.LinuxIDMapping{{ContainerID: 5, HostID: 1005, Size: 1}, {ContainerID: 6, HostID: 1006, Size: 1}}
	o := options(t, "stat", "-c", "%u:%g", "/data/file")
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/data", Source: dir, Options: []string{"rbind", "ridmap"}, UIDMappings: own, GIDMappings: own})
	check(t, o, "1005:1006")

	u := userOptions(t, "stat", "-c", "%u:%g", "/data/file", "/plain/file")
	u.Spec.Mounts = append(u.Spec.Mounts, specs.Mount{Destination: "/data", Source: dir, Options: []string{"bind", "idmap"}},
		specs.Mount{Destination: "/plain", Source: dir, Options: []string{"bind"}})
	check(t, u, "5:6\n65534:65534")

	bad := options(t, "true")
	bad.Spec.Mounts = append(bad.Spec.Mounts, specs.Mount{Destination: "/data", Source: dir, Options: []string{"bind", "idmap"}})
	if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "uidMappings") {
		t.Errorf("idmap without maps: %v", err)
	}
}

func TestUserNamespaceDevices(t *testing.T) {
	o := userOptions(t, "sh", "-c", "stat -c '%t:%T %a %u:%g' /dev/mine /srv/deep/null; cat /dev/mine | wc -c; stat -c %t:%T /dev/tty")
	mode, uid := os.FileMode(0o640), uint32(3)
	o.Spec.Linux.Devices = []specs.LinuxDevice{
		{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: &mode, UID: &uid, GID: &uid},
		{Path: "/srv/deep/null", Type: "c", Major: 1, Minor: 3},
	}
	check(t, o, "1:3 640 3:3\n1:3 666 0:0\n0\n5:0")
}

func TestTimeNamespace(t *testing.T) {
	host, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t, "sh", "-c", "cat /proc/uptime; grep boottime /proc/self/timens_offsets | tr -s ' '")
	if err := os.Symlink("busybox", filepath.Join(o.Spec.Root.Path, "bin/tr")); err != nil {
		t.Fatal(err)
	}
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	o.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 100000000}, "monotonic": {Secs: 5, Nanosecs: 7}}
	out, st := run(t, o)
	if st.Code != 0 || strings.Split(string(host), ".")[0] == strings.Split(out, ".")[0] || !strings.Contains(out, "boottime 100000000 0") {
		t.Errorf("host %s, container %s, status %+v", host, out, st)
	}
	bad := options(t, "true")
	bad.Spec.Linux.TimeOffsets = o.Spec.Linux.TimeOffsets
	if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "linux.timeOffsets") {
		t.Errorf("offsets without a namespace: %v", err)
	}
}

func TestUserNamespaceFailuresLeaveNothing(t *testing.T) {
	for field, spoil := range map[string]func(*CreateOptions){
		"linux.uidMappings": func(o *CreateOptions) { o.Spec.Linux.UIDMappings = nil },
		"size 0":            func(o *CreateOptions) { o.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{}} },
		"not a user namespace": func(o *CreateOptions) {
			o.Spec.Linux.Namespaces[len(o.Spec.Linux.Namespaces)-2].Path = "/proc/self/ns/net"
		},
		"uidmap": func(o *CreateOptions) { o.Rootfs[0].Options[3] = "uidmap=0:x:1" },
		"overlap": func(o *CreateOptions) {
			o.Spec.Linux.UIDMappings = append(podMaps(), podMaps()...)
		},
	} {
		o := userOptions(t, "true")
		spoil(&o)
		_, err := Create(context.Background(), o)
		want := field
		if field == "overlap" {
			want = "linux.uidMappings"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", field, err)
		}
	}
	out, err := exec.Command("ps", "-eo", "stat,comm").Output()
	if err == nil && strings.Contains(string(out), "berth-init") {
		t.Errorf("children are left:\n%s", out)
	}
}
