package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/node"
)

// process is one on the host that can't be taken for another.
type process struct {
	pid     int
	started string // field 22 of /proc/PID/stat
}

func (p process) lives() bool { return startOf(p.pid) == p.started }

func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" {
		return ""
	}
	return f[19]
}

// processesOf are the processes of a pod's containers, as its cgroup has them.
func (m *machine) processesOf(name string) []process {
	m.t.Helper()
	uid := string(m.pod(name).UID)
	var found []process
	seen := map[int]bool{}
	for _, dir := range cgroups(node.NamesFor(m.run).CgroupParent) {
		if !strings.Contains(dir, uid) {
			continue
		}
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && !seen[pid] {
				seen[pid] = true
				found = append(found, process{pid, startOf(pid)})
			}
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].pid < found[j].pid })
	return found
}

// running waits until the pod runs and returns its processes.
func (m *machine) running(name string, want int) []process {
	m.t.Helper()
	var found []process
	m.eventually(fmt.Sprintf("pod %s has %d processes", name, want), func() bool {
		for _, p := range m.pods() {
			if p.Name == name && p.Status.Phase == "Running" {
				found = m.processesOf(name)
				return len(found) == want
			}
		}
		return false
	})
	return found
}

// victim is the pod that is started and stopped under fire; it has something of everything.
func victim(m *machine, port int) string {
	app := with(container("app", "demo", "show", "--wait", "1h"), fmt.Sprintf(`ports: [{containerPort: 80, hostIP: 127.0.0.1, hostPort: %d}]
resources: {limits: {memory: 64Mi}}
volumeMounts: [{name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]`, port))
	return m.file("victim.yaml", pod("victim", "terminationGracePeriodSeconds: 1\nvolumes: [{name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]\n"+
		"initContainers: [{name: before, image: \"berth.local/demo:latest\", args: [demo, show]}]", app))
}

// places are the failpoints that a start and a stop of the victim reach, as the node tells them itself.
func places(m *machine, manifest string) []string {
	m.t.Helper()
	list := filepath.Join(m.dir, "failpoints")
	c := m.node("BERTH_FAILPOINT=trace:" + list)
	m.must("run", "-d", manifest)
	m.running("victim", 1)
	m.must("rm", "victim")
	c.signal(syscall.SIGTERM)
	c.wait()
	b, err := os.ReadFile(list)
	if err != nil {
		m.t.Fatalf("the node reached no failpoint: %v", err)
	}
	names := strings.Fields(string(b))
	sort.Strings(names)
	return names
}

// The daemon is killed at every place that a pod's start and stop reach. The next one finishes or
// undoes what was half-done, the bystander's processes never notice, and after the removal there is
// nothing left.
func TestDaemonKilledAtEveryFailpoint(t *testing.T) {
	m := newMachine(t)
	manifest := victim(m, freePort(t))
	m.must("run", "-d", m.file("bystander.yaml", pod("bystander", "terminationGracePeriodSeconds: 1", container("app", "demo", "show", "--wait", "1h"))))
	bystander := m.running("bystander", 1)
	stopNode(m)

	names := places(m, manifest)
	t.Logf("%d failpoints: %s", len(names), strings.Join(names, " "))
	if len(names) < 10 {
		t.Errorf("only %d failpoints are reached", len(names))
	}
	for _, name := range names {
		t.Run(strings.ReplaceAll(name, "/", "."), func(t *testing.T) {
			sub := *m
			sub.t = t
			killedAt(&sub, name, manifest, bystander)
		})
		if t.Failed() && m.t.Context().Err() != nil {
			return
		}
	}
	m.must("rm", "bystander")
	stopNode(m)
}

// killedAt runs the victim's life with a node that dies at the place, and one that does not after it.
func killedAt(m *machine, place, manifest string, bystander []process) {
	m.t.Helper()
	c := m.beginWith([]string{"BERTH_FAILPOINT=" + place + "=kill"}, "node")
	m.eventually("the node answers or has died", func() bool { return c.over() || m.answers() })
	for range 3 { // the first may fail because the node died before it answered
		if r := m.berth("run", "-d", manifest); r.code == 0 {
			break
		} else if strings.Contains(r.stderr, "already") {
			break
		}
	}
	before := m.running("victim", 1)
	m.must("rm", "victim")
	for _, p := range before {
		if p.lives() {
			m.t.Errorf("process %d of the removed pod is alive", p.pid)
		}
	}
	for _, p := range bystander {
		if !p.lives() {
			m.t.Fatalf("process %d of the bystander has died", p.pid)
		}
	}
	select {
	case <-c.ended:
		if c.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			m.t.Errorf("the node ended by itself:\n%s", c.err)
		}
	default: // the place is reached as a pod's second, or not every time
		m.t.Logf("the node was not killed: %s is not always reached", place)
		c.kill()
	}
	m.clean()
	stopNode(m)
}

// clean waits until nothing is without an owner: a link vanishes a moment after its namespace.
func (m *machine) clean() {
	m.t.Helper()
	var r result
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if r = m.berth("fsck"); r.code == 0 {
			return
		}
	}
	m.t.Errorf("after the removal berth fsck says: %s\n%s", r.stderr, r.stdout)
}

// stopNode ends whatever node is there; pods run on.
func stopNode(m *machine) {
	m.t.Helper()
	m.eventually("no node is left", func() bool {
		none := true
		for pid, what := range m.processes(node.NamesFor(m.run).CgroupParent) {
			if strings.Contains(what, " node") && !strings.Contains(what, "shim") {
				none = false
				syscall.Kill(pid, syscall.SIGTERM)
			}
		}
		return none
	})
}

// A node that is killed and replaced: the same processes, their logs whole, their exit seen.
func TestDaemonKilledWhileAPodRuns(t *testing.T) {
	m := newMachine(t)
	c := m.node()
	m.must("run", "-d", m.file("long.yaml", pod("long", "terminationGracePeriodSeconds: 1", container("app", "demo", "watch", "--every", "10ms", "/tmp/x"))))
	before := m.running("long", 1)
	c.cmd.Process.Kill()
	c.wait()
	// While there is no node the container goes on, and what it says is kept.
	m.node()
	after := m.running("long", 1)
	if len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("before %v, after %v", before, after)
	}
	m.must("exec", "long", "--", "/berth", "version")
	syscall.Kill(after[0].pid, syscall.SIGTERM)
	m.eventually("the new node sees the container's end and starts it again", func() bool {
		st := m.pod("long").Status.ContainerStatuses
		return len(st) == 1 && st[0].RestartCount == 1
	})
	if out := m.must("logs", "long", "--previous").stdout; !strings.Contains(out, "not there yet") || !strings.Contains(out, "good-bye") {
		t.Errorf("the log of the first instance:\n%s", out)
	}
	m.must("rm", "long")
	stopNode(m)
}

// A run in the foreground outlives its node.
func TestForegroundRunOutlivesItsNode(t *testing.T) {
	m := newMachine(t)
	file, _ := hello(t, m)
	n := m.node()
	c := m.begin("run", file)
	c.says("pod hello is ready")
	before := m.running("hello", 2)
	n.cmd.Process.Kill()
	c.says("the node has died")
	after := m.running("hello", 2)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v, after %v", before, after)
	}
	c.signal(syscall.SIGINT)
	if r := c.wait(); r.code != 0 || !strings.Contains(r.stderr, "pod hello is gone") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

// shims are the processes of the node's shims.
func (m *machine) shims() []process {
	var found []process
	for pid, what := range m.processes(node.NamesFor(m.run).CgroupParent) {
		if strings.Contains(what, "containerd-shim-berth") {
			found = append(found, process{pid, startOf(pid)})
		}
	}
	return found
}

// shimOf is the process of the shim that keeps the sandbox.
func (m *machine) shimOf(sandbox string) process {
	m.t.Helper()
	records, _ := filepath.Glob(filepath.Join(m.run, "shims", "*", "sandboxes", sandbox+".json"))
	if len(records) == 1 {
		group := filepath.Base(filepath.Dir(filepath.Dir(records[0])))
		for pid, what := range m.processes(node.NamesFor(m.run).CgroupParent) {
			if strings.Contains(what, "-id "+group+" ") {
				return process{pid, startOf(pid)}
			}
		}
	}
	m.t.Fatalf("no shim keeps sandbox %s: %v", sandbox, records)
	return process{}
}

// kill -9 of the shims: successors take over, the containers run on, their logs go on, exec works, and
// their end is seen with its exit code.
func TestShimKilled(t *testing.T) {
	m := newMachine(t)
	m.node()
	m.must("run", "-d", m.file("kept.yaml", pod("kept", "terminationGracePeriodSeconds: 1\nrestartPolicy: Never", container("app", "demo", "show", "--wait", "1h", "--exit", "33"), container("talk", "demo", "serve", "--listen=:80"))))
	before := m.running("kept", 2)
	m.eventually("app is ready for a signal", func() bool { return strings.Contains(m.berth("logs", "kept", "-c", "app").stdout, "pid=") })
	old := m.shims()
	if len(old) == 0 {
		t.Fatal("no shim is running")
	}
	for _, s := range old {
		syscall.Kill(s.pid, syscall.SIGKILL)
	}
	m.eventually("successors run", func() bool {
		for _, s := range m.shims() {
			for _, o := range old {
				if s == o {
					return false
				}
			}
		}
		return len(m.shims()) > 0
	})
	m.eventually("exec works again", func() bool {
		return m.berth("exec", "kept", "-c", "talk", "--", "/berth", "version").code == 0
	})
	if after := m.processesOf("kept"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v, after %v", before, after)
	}
	for _, p := range before {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); bytes.Contains(b, []byte("show")) {
			syscall.Kill(p.pid, syscall.SIGTERM)
		}
	}
	var ended *v1.ContainerStateTerminated
	m.eventually("the end of an adopted container is known", func() bool {
		for _, st := range m.pod("kept").Status.ContainerStatuses {
			if st.Name == "app" {
				ended = st.State.Terminated
			}
		}
		return ended != nil
	})
	if ended.ExitCode != 33 {
		t.Errorf("an adopted container ended with exit code %d, %s: %s", ended.ExitCode, ended.Reason, ended.Message)
		t.Log(m.berth("logs", "kept", "-c", "app").stdout)
	}
	m.must("rm", "kept")
	stopNode(m)
}

// Node and shims killed at once: the containers run on, and the next node finds them.
func TestEverythingButThePodKilled(t *testing.T) {
	m := newMachine(t)
	n := m.node()
	m.must("run", "-d", m.file("kept.yaml", pod("kept", "terminationGracePeriodSeconds: 1", container("talk", "demo", "serve", "--listen=:80"))))
	before := m.running("kept", 1)
	n.cmd.Process.Kill()
	n.wait()
	for _, s := range m.shims() {
		syscall.Kill(s.pid, syscall.SIGKILL)
	}
	time.Sleep(100 * time.Millisecond)
	m.node()
	if after := m.running("kept", 1); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v, after %v", before, after)
	}
	m.must("exec", "kept", "--", "/berth", "version")
	m.must("rm", "kept")
	stopNode(m)
}
