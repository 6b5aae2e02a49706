package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
)

func TestPods(t *testing.T) {
	for _, host := range []bool{true, false} {
		t.Run(map[bool]string{true: "host network", false: "bridge"}[host], func(t *testing.T) {
			p := newPlace(t)
			d := p.open(t)
			ctx := context.Background()
			spec := p.pod("web", host)
			sb, err := d.rt.RunSandbox(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			c, err := d.start(ctx, sb, shell("main", "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done"))
			if err != nil {
				t.Fatal(err)
			}
			d.checkInside(t, p, sb, c, host)
			log := filepath.Join(spec.LogDir, "main/0.log")
			eventually(t, "the log has a line", func() bool { b, _ := os.ReadFile(log); return strings.Contains(string(b), " stdout F hello\n") })
			if st, err := d.rt.ContainerStats(ctx, c); err != nil || st.Cgroup.MemoryUsage == 0 {
				t.Errorf("stats %+v, %v", st, err)
			}
			if err := d.rt.StopContainer(ctx, c, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			if st, _ := d.rt.Container(c); st.State != runtime.ContainerExited || st.ExitCode != 3 {
				t.Errorf("after the stop: %+v", st)
			}
			if b, _ := os.ReadFile(log); !strings.Contains(string(b), " stdout F bye\n") {
				t.Errorf("log: %s", b)
			}
			if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			d.checkEmpty(t)
		})
	}
}

// checkInside asks the container what it sees.
func (d *daemon) checkInside(t *testing.T, p place, sb, c string, host bool) {
	t.Helper()
	if got := d.exec(t, c, "echo $FROM; cat /proc/1/comm; id -u"); got != "image\nsh\n0" {
		t.Errorf("inside: %q", got)
	}
	if got := d.exec(t, c, "cat /etc/resolv.conf"); got != "nameserver 192.0.2.1" {
		t.Errorf("resolv.conf: %q", got)
	}
	st, err := d.rt.Sandbox(sb)
	if err != nil {
		t.Fatal(err)
	}
	addrs := d.exec(t, c, "ip addr")
	if host {
		if mine, _ := os.Hostname(); d.exec(t, c, "hostname") != mine {
			t.Error("a host-network pod has another host name")
		}
		return
	}
	if len(st.IPs) == 0 || !strings.Contains(addrs, st.IPs[0].String()) {
		t.Errorf("addresses %v: %s", st.IPs, addrs)
	}
	if got := d.exec(t, c, "hostname"); got != "web" {
		t.Errorf("hostname %q", got)
	}
}

// checkEmpty: nothing is owned, pending or orphaned any more.
func (d *daemon) checkEmpty(t *testing.T) {
	t.Helper()
	rep, err := d.rt.Fsck(context.Background(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !rep.Clean() || len(rep.Owned)+len(rep.Pending) > 0 {
		b, _ := json.MarshalIndent(rep, "", " ")
		t.Errorf("fsck: %s", b)
	}
}

func TestStartErrors(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("bad", true))
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.start(ctx, sb, runtime.ContainerSpec{Name: "none", Image: "test.local/busybox:1", Command: []string{"/no/such/program"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error %v", err)
	}
	if st, _ := d.rt.Container(id); st.State != runtime.ContainerExited || st.Reason != "StartError" {
		t.Errorf("%+v", st)
	}
	if _, err := d.rt.CreateContainer(ctx, sb, runtime.ContainerSpec{Name: "x", Image: "test.local/ghost:1"}); err == nil {
		t.Error("a container of an image that is not there")
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// The daemon ends and comes back: containers have not noticed, and what ended meanwhile is known.
func TestRestart(t *testing.T) {
	p := newPlace(t)
	d, err := openDaemon(context.Background(), p, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("keep", false))
	if err != nil {
		t.Fatal(err)
	}
	lives, err := d.start(ctx, sb, shell("lives", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	ends, err := d.start(ctx, sb, shell("ends", "sleep 0.7; exit 9"))
	if err != nil {
		t.Fatal(err)
	}
	before, _ := d.rt.Container(lives)
	d.close()
	time.Sleep(time.Second)
	d = p.open(t)
	after, err := d.rt.Container(lives)
	if err != nil || after.State != runtime.ContainerRunning || after.Pid != before.Pid {
		t.Errorf("%+v, %v", after, err)
	}
	if got := d.exec(t, lives, "echo here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
	eventually(t, "the end is known", func() bool {
		st, _ := d.rt.Container(ends)
		return st.State == runtime.ContainerExited && st.ExitCode == 9
	})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}

// A stopped shim keeps nobody from killing; the pod's processes are dead when StopContainer returns.
func TestStoppedShim(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("hung", false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	st, _ := d.rt.Container(c)
	pid := d.shims.Inventory().Groups[0].Pid
	syscall.Kill(pid, syscall.SIGSTOP)
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	if (machine.Kernel{}).Alive(st.Pid, st.CgroupPath) {
		t.Error("the container's process lives")
	}
	if l := d.rt.Sandboxes(); len(l) > 0 {
		t.Errorf("still listed: %v", l)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	eventually(t, "the shim is told and ends", func() bool {
		rep, err := d.rt.Fsck(ctx, false)
		return err == nil && len(rep.Owned)+len(rep.Pending)+len(rep.Orphans) == 0
	})
}

// Many pods come and go at once, over several shims.
func TestManyAtOnce(t *testing.T) {
	p := newPlace(t)
	p.GroupSize = 8
	d := p.open(t)
	ctx := context.Background()
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			sb, err := d.rt.RunSandbox(ctx, p.pod(fmt.Sprint("p", i), i%2 == 0))
			if err != nil {
				t.Error(err)
				return
			}
			for _, name := range []string{"a", "b"} {
				if _, err := d.start(ctx, sb, shell(name, "sleep 1000")); err != nil {
					t.Error(err)
				}
			}
			if i%3 == 0 {
				err = d.rt.StopSandbox(ctx, sb)
			}
			if err := errors.Join(err, d.rt.RemoveSandbox(ctx, sb)); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	d.checkEmpty(t)
}
