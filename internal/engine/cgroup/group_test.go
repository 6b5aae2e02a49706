package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestLoadRefusesBadPaths(t *testing.T) {
	hs := &Hierarchies{}
	for _, p := range []string{"", "/", "//", ".", "/a/../b", "..", "/..", "a/..", "/a/\n", "/a/\x00b", strings.Repeat("x", 256), strings.Repeat("/x", 2000)} {
		if g, err := hs.Load(p); err == nil {
			t.Errorf("Load(%.20q) gives %q", p, g.Path())
		}
	}
	for p, want := range map[string]string{"berth/p/c": "/berth/p/c", "/a//b/": "/a/b", "/a/./b": "/a/b", "/..a/b..": "/..a/b.."} {
		g, err := hs.Load(p)
		if err != nil || g.Path() != want {
			t.Errorf("Load(%q): %v; want %s", p, err, want)
		}
	}
}

func TestLifecycle(t *testing.T) {
	top := parent(t)
	g, err := Load(top + "/pod1/web")
	if err != nil {
		t.Fatal(err)
	}
	if g.Exists() {
		t.Fatal("exists before it was made")
	}
	for range 2 { // idempotent
		if err := g.Create(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	for c, p := range g.Paths() {
		if _, err := os.Stat(p); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	p := start(t, "sleep")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	membership := content(t, "/proc/"+itoa(p.Process.Pid)+"/cgroup")
	if n := strings.Count(membership, ":"+g.Path()); n < len(g.h.list) {
		t.Errorf("in %d of %d hierarchies:\n%s", n, len(g.h.list), membership)
	}
	pod, _ := Load(top + "/pod1")
	for _, of := range []*Group{g, pod} {
		if pids, err := of.Pids(); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
			t.Errorf("%s: pids %v, %v", of.Path(), pids, err)
		}
	}
	if children, err := Children(top); err != nil || !slices.Equal(children, []string{"/" + strings.Trim(pod.Path(), "/")}) {
		t.Errorf("Children: %v, %v", children, err)
	}
	short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g.Delete(short); err == nil || !strings.Contains(err.Error(), "processes are still in it") {
		t.Errorf("Delete with a process inside: %v", err)
	}
	if err := pod.Kill(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if pids, _ := g.Pids(); len(pids) != 0 {
		t.Errorf("left after Kill: %v", pids)
	}
	for range 2 {
		if err := pod.Delete(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if g.Exists() || pod.Exists() {
		t.Error("still there after Delete")
	}
	if err := g.Kill(context.Background()); err != nil {
		t.Errorf("Kill of nothing: %v", err)
	}
	if _, err := g.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stats of nothing: %v", err)
	}
	if err := g.Join(p.Process.Pid); err == nil {
		t.Error("Join of a group that does not exist")
	}
}

func TestCpusetIsInheritedIntoForeignParents(t *testing.T) {
	top := parent(t)
	g, _ := Load(top + "/pod/c")
	h := g.h.byController["cpuset"]
	if h == nil || h.V2 {
		t.Skip("no cgroup v1 cpuset here")
	}
	// A tree that somebody else made, without CPUs.
	if err := os.MkdirAll(h.dir.Path(strings.Trim(top, "/")+"/pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		want := content(t, h.dir.Path(f))
		for _, dir := range []string{top[1:], top[1:] + "/pod", g.rel} {
			if got := content(t, h.dir.Path(dir+"/"+f)); got != want {
				t.Errorf("%s/%s is %q, want %q", dir, f, got, want)
			}
		}
	}
	if err := g.Join(start(t, "sleep").Process.Pid); err != nil {
		t.Fatal(err)
	}
}

func TestJoinErrors(t *testing.T) {
	g := create(t, parent(t)+"/c")
	for _, pid := range []int{0, -1, 1 << 30} {
		if err := g.Join(pid); err == nil {
			t.Errorf("joined %d", pid)
		}
	}
	pids, err := g.Pids()
	if err != nil || len(pids) != 0 {
		t.Fatalf("somebody is in: %v %v", pids, err)
	}
}

func TestFreeze(t *testing.T) {
	g := create(t, parent(t)+"/c")
	p := start(t, "sleep")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	check := func(want bool) {
		t.Helper()
		if got, err := g.Frozen(); err != nil || got != want {
			t.Fatalf("Frozen is %v, %v", got, err)
		}
	}
	check(false)
	for range 2 {
		if err := g.Freeze(timeout(t, 10*time.Second)); err != nil {
			t.Fatal(err)
		}
		check(true)
	}
	if err := g.Thaw(context.Background()); err != nil {
		t.Fatal(err)
	}
	check(false)
	if err := g.Freeze(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	// A paused container can be killed.
	if err := g.Kill(timeout(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	p.Wait()
}

func TestKillWhomCgroupKillMisses(t *testing.T) {
	g := create(t, parent(t)+"/c")
	if g.h.unified {
		t.Skip("v2 has cgroup.kill")
	}
	// A process that is in v1's groups alone, its children too.
	p := start(t, "bomb")
	for _, h := range g.h.list {
		if !h.V2 {
			if _, err := h.dir.Write(g.rel+"/cgroup.procs", itoa(p.Process.Pid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	bomb(t, g, p)
}

func TestKillBeatsForkBomb(t *testing.T) {
	g := create(t, parent(t)+"/c")
	p := start(t, "bomb")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	bomb(t, g, p)
}

func bomb(t *testing.T, g *Group, p *process) {
	limitPids(t, g, 200)
	p.goOn(t)
	time.Sleep(300 * time.Millisecond)
	if pids, _ := g.Pids(); len(pids) == 0 {
		t.Fatal("the bomb is a dud")
	}
	began := time.Now()
	if err := g.Kill(timeout(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed in %v", time.Since(began))
	p.Wait()
	time.Sleep(20 * time.Millisecond)
	if pids, err := g.Pids(); err != nil || len(pids) != 0 {
		t.Fatalf("alive: %v, %v", pids, err)
	}
}

func TestOOMEvents(t *testing.T) {
	g := create(t, parent(t)+"/c")
	// Memory alone, without swap: what meets the limit of memory+swap, Linux 6.14 and later do not count.
	if err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}}); errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	events, err := g.OOMEvents(ctx)
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, "eat:512")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	p.goOn(t)
	if err := p.Wait(); err == nil {
		t.Fatal("512 MiB fitted into 64")
	}
	select {
	case e := <-events:
		if e.Kills == 0 {
			t.Error("no kill counted")
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no event")
	}
	if n, err := g.OOMKills(); err != nil || n == 0 {
		t.Errorf("OOMKills: %d, %v", n, err)
	}
	s, err := g.Stats()
	if err != nil || s.Memory.OOMKills == 0 || s.Memory.FailCount == 0 {
		t.Errorf("Stats: %+v, %v", s, err)
	}
	cancel()
	if _, open := <-events; open {
		t.Error("an event after the end")
	}
}

func TestOOMEventsEndWithTheGroup(t *testing.T) {
	g := create(t, parent(t)+"/c")
	events, err := g.OOMEvents(context.Background())
	if errors.Is(err, ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(context.Background()); err != nil {
		t.Fatal(err)
	}
	select {
	case _, open := <-events:
		if open {
			t.Error("an event for nothing")
		}
	case <-time.After(2 * time.Minute):
		t.Error("the channel stays open")
	}
}

func TestStats(t *testing.T) {
	g := create(t, parent(t)+"/c")
	limitMemory(t, g, 256<<20)
	limitPids(t, g, 77)
	p := start(t, "eat:100")
	if err := g.Join(p.Process.Pid); err != nil {
		t.Fatal(err)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Limit != 256<<20 || s.Pids.Limit != 77 || s.Pids.Current == 0 {
		t.Errorf("%+v", s)
	}
	p.goOn(t)
	p.expect(t, "ate 1")
	p.Wait()
	s, err = g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.Usage == 0 || s.CPU.Usage < s.CPU.User/2 || s.Memory.Peak < 100<<20 || s.Memory.PageFaults == 0 {
		t.Errorf("after eating 100 MiB: %+v", s)
	}
	if g.h.v2 != nil && s.CPU.Pressure == nil {
		t.Log("the kernel tells no pressure (psi=0?)")
	}
}

func TestFD(t *testing.T) {
	g := create(t, parent(t)+"/c")
	f, err := g.FD()
	if g.h.v2 == nil {
		if !errors.Is(err, ErrUnsupported) || !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("under v1: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := exec.Command("/bin/cat", "/proc/self/cgroup")
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	out, err := c.Output()
	if err != nil || !strings.Contains(string(out), "0::"+g.Path()+"\n") {
		t.Errorf("born elsewhere: %v\n%s", err, out)
	}
}
