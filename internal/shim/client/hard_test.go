package client

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// alive proves that a container in the same shim is served.
func (b *bench) alive(s *Shim, id string) {
	b.t.Helper()
	if r, err := s.ExecSync(b.ctx(), id, program("true"), 0, 0); err != nil || r.Exit.Code != 0 {
		b.t.Errorf("the neighbour %s: %v, %v", id, r, err)
	}
}

func (b *bench) kill(s *Shim, id string, sig syscall.Signal, all bool) {
	b.t.Helper()
	if _, err := s.Task().Kill(b.ctx(), &taskv3.KillRequest{ID: id, Signal: uint32(sig), All: all}); err != nil {
		b.t.Error(err)
	}
}

func TestForksForEver(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "calm", sandbox: "pod1", args: []string{"sleep", "1000"}})
	limit := int64(300)
	b.run(s, ctr{id: "bomb", sandbox: "pod1", args: []string{"sh", "-c", "f() { while :; do f & sleep 1000 & done; }; f 2>/dev/null & exec sleep 1000"}, change: func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	}})
	// A shell that can't fork ends; its sleepers stay.
	b.until("many processes", func() bool {
		r, err := s.Task().Pids(b.ctx(), &taskv3.PidsRequest{ID: "bomb"})
		return err == nil && len(r.Processes) > 100
	})
	b.alive(s, "calm")
	b.kill(s, "bomb", syscall.SIGKILL, true)
	if code := b.wait(s, "bomb"); code != 137 {
		t.Errorf("code %d", code)
	}
	b.remove(s, "bomb")
	b.remove(s, "calm")
}

func TestIgnoresSIGTERM(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"}})
	b.until("the trap", func() bool { return len(b.log("c1")) == 1 })
	b.kill(s, "c1", syscall.SIGTERM, false)
	b.kill(s, "c1", syscall.SIGTERM, true) // its sleep dies, it does not
	time.Sleep(200 * time.Millisecond)
	b.alive(s, "c1")
	b.kill(s, "c1", syscall.SIGKILL, false)
	if code := b.wait(s, "c1"); code != 137 {
		t.Errorf("code %d", code)
	}
	b.remove(s, "c1")
}

// A container that fills its log's disk goes on; the log says what is missing, and goes on when there is room again.
func TestFullLogDisk(t *testing.T) {
	b := newBench(t)
	disk := filepath.Join(b.dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=128k"); err != nil {
		t.Skip("needs a tmpfs of its own:", err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	b.logDir = disk
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "c1", sandbox: "pod1", args: []string{"sh", "-c", "seq 100000; : >/tmp/full; while [ ! -e /tmp/room ]; do sleep 0.05; done; echo after; exit 3"}})
	full := filepath.Join(b.rootfs, "tmp/full")
	b.until("the end of its lines", func() bool { _, err := os.Stat(full); return err == nil })
	b.alive(s, "c1")
	if err := os.Truncate(b.logPath("c1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "tmp/room"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := b.wait(s, "c1"); code != 3 {
		t.Errorf("code %d", code)
	}
	raw, err := os.ReadFile(b.logPath("c1"))
	if err != nil || !strings.Contains(string(raw), "bytes of log could not be written") || !strings.HasSuffix(string(raw), " stdout F after\n") {
		t.Errorf("log %q, %v", raw, err)
	}
	b.remove(s, "c1")
	b.logDir = ""
}

// deadFUSE mounts a filesystem that answers until somebody looks for a file in it, and never again.
func (b *bench) deadFUSE() (dir string, asked chan struct{}, revive func()) {
	b.t.Helper()
	dev, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		b.t.Skip("needs FUSE:", err)
	}
	dir = filepath.Join(b.dir, "fuse")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	options := "fd=" + strconv.Itoa(dev) + ",rootmode=40755,user_id=0,group_id=0,allow_other"
	if err := syscall.Mount("dead", dir, "fuse", 0, options); err != nil {
		syscall.Close(dev)
		b.t.Skip("needs FUSE:", err)
	}
	asked = make(chan struct{})
	go answerFUSE(dev, asked)
	revive = func() { // for good: every request gets an error
		syscall.Unmount(dir, syscall.MNT_FORCE|syscall.MNT_DETACH)
		syscall.Close(dev)
	}
	revive = sync.OnceFunc(revive)
	b.t.Cleanup(revive)
	return dir, asked, revive
}

// answerFUSE answers INIT (26) and GETATTR (3) of the root directory, and tells of the first LOOKUP (1); see the kernel's
// include/uapi/linux/fuse.h.
func answerFUSE(dev int, asked chan struct{}) {
	buf := make([]byte, 1<<17)
	for {
		n, err := syscall.Read(dev, buf)
		if err != nil || n < 40 {
			return
		}
		reply := func(errno syscall.Errno, body []byte) {
			out := make([]byte, 16, 16+len(body))
			binary.NativeEndian.PutUint32(out[4:], uint32(-int32(errno)))
			binary.NativeEndian.PutUint32(out, uint32(16+len(body)))
			copy(out[8:16], buf[8:16]) // the request's number
			syscall.Write(dev, append(out, body...))
		}
		switch binary.NativeEndian.Uint32(buf[4:]) {
		default:
			reply(syscall.ENOSYS, nil)
		case 1:
			close(asked)
			return
		case 26:
			body := make([]byte, 64)
			binary.NativeEndian.PutUint32(body, 7)
			binary.NativeEndian.PutUint32(body[4:], 31)
			binary.NativeEndian.PutUint32(body[20:], 1<<16) // max_write
			reply(0, body)
		case 3:
			body := make([]byte, 16+88)
			binary.NativeEndian.PutUint64(body, 3600)            // the attributes hold for an hour
			binary.NativeEndian.PutUint64(body[16:], 1)          // inode
			binary.NativeEndian.PutUint32(body[16+60:], 0o40755) // mode
			binary.NativeEndian.PutUint32(body[16+64:], 2)       // links
			reply(0, body)
		}
	}
}

// A process that the kernel does not let die holds up its own container alone, and no call without a bound.
func TestProcessInDState(t *testing.T) {
	b := newBench(t)
	dir, asked, revive := b.deadFUSE()
	s := b.sandbox("pod1")
	b.run(s, ctr{id: "calm", sandbox: "pod1", args: []string{"sleep", "1000"}})
	b.run(s, ctr{id: "stuck", sandbox: "pod1", args: []string{"sh", "-c", "echo ready; exec cat /dead/file"}, change: func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dead", Type: "bind", Source: dir, Options: []string{"bind"}})
	}})
	pid := int(b.state(s, "stuck").Pid)
	<-asked // it waits for an answer that won't come
	b.alive(s, "calm")
	began := time.Now()
	_, err := s.Task().Kill(b.ctx(), &taskv3.KillRequest{ID: "stuck", Signal: uint32(syscall.SIGKILL)})
	if err != nil || time.Since(began) > 20*time.Second {
		t.Errorf("kill: %v after %v", err, time.Since(began))
	}
	b.until("D state", func() bool {
		raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return strings.Contains(string(raw), ") D ")
	})
	b.alive(s, "calm")
	if _, err := s.Task().Delete(b.ctx(), &taskv3.DeleteRequest{ID: "stuck"}); err == nil {
		t.Error("a container that runs was deleted")
	}
	revive()
	if code := b.wait(s, "stuck"); code != 137 {
		t.Errorf("code %d", code)
	}
	b.remove(s, "stuck")
	b.remove(s, "calm")
}

// What Create needs vanishes in the middle: an error, and nothing is left.
func TestBundleVanishes(t *testing.T) {
	b := newBench(t)
	s := b.sandbox("pod1")
	c := ctr{id: "c1", sandbox: "pod1", args: []string{"sleep", "1000"}}
	if err := b.create(s, c); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "bundles", "c1")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task().Start(b.ctx(), &taskv3.StartRequest{ID: "c1"}); err != nil {
		t.Errorf("a created container needs its bundle: %v", err)
	}
	b.alive(s, "c1")
	b.kill(s, "c1", syscall.SIGKILL, false)
	b.wait(s, "c1")
	b.remove(s, "c1")
	_, err := s.Task().Create(b.ctx(), &taskv3.CreateTaskRequest{ID: "c2", Bundle: filepath.Join(b.dir, "bundles", "none")})
	if err == nil || !strings.Contains(err.Error(), "config.json") || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("create without a bundle: %v", err)
	}
}
