package engine

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// started runs a container that sleeps.
func started(t *testing.T, o CreateOptions) *Container {
	t.Helper()
	c := newContainer(t, o)
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSchedulerAndIOPriority(t *testing.T) {
	o := options(t, "sleep", "1000")
	o.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	o.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	c := started(t, o)
	attr, err := unix.SchedGetAttr(c.Pid(), 0)
	if err != nil || attr.Policy != unix.SCHED_BATCH || attr.Nice != 7 || attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
		t.Errorf("scheduler %+v, %v", attr, err)
	}
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(c.Pid()), 0)
	if errno != 0 || prio != 2<<13|6 {
		t.Errorf("I/O priority %#x, %v", prio, errno)
	}
	for field, spoil := range map[string]func(*specs.Process){
		"process.scheduler.policy":        func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: "SCHED_X"} },
		"process.scheduler.flags":         func(p *specs.Process) { p.Scheduler.Flags = []specs.LinuxSchedulerFlag{"X"} },
		"process.ioPriority":              func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_X"} },
		"process.execCPUAffinity.initial": func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "5-1"} },
	} {
		bad := options(t, "true")
		bad.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther}
		spoil(bad.Spec.Process)
		if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestRealtimeScheduler(t *testing.T) {
	o := options(t, "sleep", "1000")
	o.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedRR, Priority: 3}
	c := newContainer(t, o)
	err := c.Start(context.Background())
	if err != nil && strings.Contains(err.Error(), "process.scheduler: operation not permitted") {
		t.Skip("this kernel gives a cgroup no realtime by itself: " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	if attr, err := unix.SchedGetAttr(c.Pid(), 0); err != nil || attr.Policy != unix.SCHED_RR || attr.Priority != 3 {
		t.Errorf("scheduler %+v, %v", attr, err)
	}
}

func TestExecCPUAffinity(t *testing.T) {
	o := options(t, "sleep", "1000")
	c := started(t, o)
	all := allowedCPUs(t, c.Pid())
	for _, a := range []specs.CPUAffinity{{Initial: "0"}, {Initial: "0", Final: "1"}, {Final: "1"}} {
		p := *o.Spec.Process
		p.Args = []string{"sh", "-c", "grep Cpus_allowed_list /proc/self/status; cat /proc/self/cgroup | grep -vc ':/$'"}
		p.ExecCPUAffinity = &a
		r, w, _ := os.Pipe()
		proc, err := c.Exec(context.Background(), ExecOptions{ID: "e", Process: &p, Stdio: Stdio{Out: w}})
		w.Close()
		if err != nil && strings.Contains(err.Error(), `final "1": invalid argument`) {
			t.Skip("this machine has one CPU")
		}
		if err != nil {
			t.Fatal(err)
		}
		out, _ := finish(t, proc, r)
		r.Close()
		want := a.Final
		if want == "" {
			want = all
		}
		if got := strings.Fields(out); len(got) != 3 || got[1] != want || got[2] != "0" {
			t.Errorf("%+v: %q", a, out)
		}
	}
}

func allowedCPUs(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "Cpus_allowed_list:")
	return strings.Fields(rest)[0]
}

func TestPersonalityAndMemoryPolicy(t *testing.T) {
	o := options(t, "uname", "-m")
	if err := os.Symlink("busybox", filepath.Join(o.Spec.Root.Path, "bin/uname")); err != nil {
		t.Fatal(err)
	}
	o.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	out, _ := run(t, o)
	if out = strings.TrimSpace(out); out != "i686" && out != "armv8l" {
		t.Errorf("machine %q", out)
	}
	m := options(t, "sleep", "1000")
	m.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	c := newContainer(t, m)
	if err := c.Start(context.Background()); err != nil && strings.Contains(err.Error(), "function not implemented") {
		t.Log("this kernel has no NUMA: " + err.Error())
	} else if b, rerr := os.ReadFile("/proc/" + strconv.Itoa(c.Pid()) + "/numa_maps"); err != nil || rerr == nil && !strings.Contains(string(b), "bind=static:0") {
		t.Errorf("memory policy: %v, %v, %s", err, rerr, b)
	}
	for field, spoil := range map[string]func(*specs.Linux){
		"linux.personality":        func(l *specs.Linux) { l.Personality = &specs.LinuxPersonality{Domain: "X"} },
		"linux.memoryPolicy.mode":  func(l *specs.Linux) { l.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "X"} },
		"linux.memoryPolicy.nodes": func(l *specs.Linux) { l.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "x"} },
	} {
		bad := options(t, "true")
		spoil(bad.Spec.Linux)
		if _, err := Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestLabelsNeedTheirModule(t *testing.T) {
	if hasAppArmor() || hasSELinux() {
		t.Skip("this kernel has security modules")
	}
	for _, set := range []func(*specs.Spec){
		func(s *specs.Spec) { s.Process.ApparmorProfile = "p" }, func(s *specs.Spec) { s.Process.SelinuxLabel = "l" },
		func(s *specs.Spec) { s.Linux.MountLabel = "l" },
	} {
		o := options(t, "true")
		set(o.Spec)
		if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "this kernel has no") {
			t.Errorf("got %v", err)
		}
	}
	o := options(t, "true")
	o.Spec.Process.ApparmorProfile = "unconfined"
	check(t, o, "")
}

func TestWorkingDirectoryOfTheUser(t *testing.T) {
	o := options(t, "pwd")
	o.Spec.Process.Cwd = "/srv/home"
	o.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
	check(t, o, "/srv/home")
	if err := os.Chmod(filepath.Join(o.Spec.Root.Path, "srv"), 0o700); err != nil {
		t.Fatal(err)
	}
	o.Spec.Process.Args = []string{"true"}
	o.ID += "b"
	o.Spec.Linux.CgroupsPath += "b"
	check(t, o, "") // root may enter for the user, as elsewhere
}

func TestUmaskAndDeviceModes(t *testing.T) {
	o := options(t, "sh", "-c", "umask; stat -c %a /dev/null /dev/own; touch /tmp/x; stat -c %a /tmp/x")
	if err := os.Symlink("busybox", filepath.Join(o.Spec.Root.Path, "bin/umask")); err != nil {
		t.Fatal(err)
	}
	umask, mode := uint32(0o077), os.FileMode(0o622)
	o.Spec.Process.User.Umask = &umask
	o.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/own", Type: "c", Major: 1, Minor: 3, FileMode: &mode}}
	check(t, o, "0077\n666\n622\n600")
}

// An agent that answers mkdir with 0 without doing it.
func TestSeccompNotify(t *testing.T) {
	for _, nnp := range []bool{true, false} {
		socket := filepath.Join(t.TempDir(), "agent")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		states := make(chan specs.ContainerProcessState, 2)
		go serveNotify(t, l, states)
		o := options(t, "sh", "-c", "mkdir /tmp/never && test ! -e /tmp/never && echo done by the agent; sleep 0")
		o.Spec.Process.NoNewPrivileges = nnp
		o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: socket, ListenerMetadata: "meta",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}},
		}
		check(t, o, "done by the agent")
		st := <-states
		if len(st.Fds) != 1 || st.Fds[0] != specs.SeccompFdName || st.Metadata != "meta" || st.State.ID != o.ID || st.Pid == 0 || st.State.Status != specs.StateCreated {
			t.Errorf("state %+v", st)
		}
		l.Close()
		o.ID += "b"
		o.Spec.Linux.CgroupsPath += "b"
		c := newContainer(t, o)
		if err := c.Start(context.Background()); err == nil || !strings.Contains(err.Error(), "linux.seccomp.listenerPath") {
			t.Errorf("without an agent: %v", err)
		}
	}
}

func serveNotify(t *testing.T, l *net.UnixListener, states chan<- specs.ContainerProcessState) {
	c, err := l.AcceptUnix()
	if err != nil {
		return
	}
	defer c.Close()
	b, oob := make([]byte, 64<<10), make([]byte, 128)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Error(err)
		return
	}
	var st specs.ContainerProcessState
	if err := json.Unmarshal(b[:n], &st); err != nil {
		t.Errorf("%s: %v", b[:n], err)
	}
	states <- st
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		t.Errorf("control messages %v, %v", msgs, err)
		return
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("descriptors %v, %v", fds, err)
		return
	}
	answerNotify(fds[0])
}
