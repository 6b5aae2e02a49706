package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCrashChild is the process that TestCrash kills: it pulls, prepares, removes and replaces.
func TestCrashChild(t *testing.T) {
	ref, root := os.Getenv("BERTH_TEST_CRASH_REF"), os.Getenv("BERTH_TEST_CRASH_ROOT")
	if ref == "" {
		t.Skip("this is TestCrash's child process")
	}
	ctx := context.Background()
	s, err := Open(Config{Root: root, Retry: quick})
	if err != nil {
		t.Fatal(err)
	}
	img, err := s.Pull(ctx, ref+":1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"c1", "c2"} {
		if _, err := s.Prepare(ctx, key, img); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RemoveRootfs(ctx, "c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(ctx, ref+":2", PullOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(ctx, ref+":2", "kept:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(ctx, "kept:1", true); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, "kept:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, ref+":1"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveRootfs(ctx, "c2"); err != nil {
		t.Fatal(err)
	}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	if err := s.syncLayers(); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func crashChild(t *testing.T, ref, root, failpoint string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), "BERTH_TEST_CRASH_REF="+ref, "BERTH_TEST_CRASH_ROOT="+root, "BERTH_FAILPOINT="+failpoint)
	out, err := cmd.CombinedOutput()
	if err != nil && failpoint != "" && strings.Contains(failpoint, "=kill") {
		if ee, ok := err.(*exec.ExitError); ok && ee.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if strings.Contains(failpoint, "=kill") {
		return errSurvived
	}
	return nil
}

var errSurvived = fmt.Errorf("the child reached its end")

// A process killed at any failpoint, at its first, second and third time, leaves nothing that the next
// Open does not heal: what is there is whole, the same pull works, and after removal nothing is left.
func TestCrash(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("starts a process for each failpoint")
	}
	f := newFake(t)
	base := f.host() + "/app"
	f.push(t, "app:0", build(t, machine(), layer(t, file{name: "zero", body: "0"})))
	f.push(t, "app:1", simple(t))
	f.push(t, "app:2", build(t, machine(), layer(t, file{name: "two", body: "2"})))
	list := filepath.Join(t.TempDir(), "failpoints")
	if err := crashChild(t, base, t.TempDir(), "trace:"+list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(b))
	if len(points) < 24 {
		t.Fatalf("only %d failpoints were reached: %v", len(points), points)
	}
	for _, p := range points {
		for hit := 1; hit <= 3; hit++ {
			t.Run(fmt.Sprintf("%s@%d", p, hit), func(t *testing.T) {
				root := t.TempDir()
				good := !strings.HasPrefix(p, "image/layout/") // that is passed in a new store only
				if good {
					goodImage(t, root, base)
				}
				err := crashChild(t, base, root, fmt.Sprintf("%s=kill@%d", p, hit))
				if err == errSurvived && hit > 1 {
					t.Skip("it is not reached so often")
				}
				if err != nil {
					t.Fatal(err)
				}
				s := openAt(t, root, nil)
				if _, err := s.Get(base + ":0"); good && err != nil {
					t.Errorf("a good image is lost: %v", err)
				}
				s.Close()
				checkHealed(t, root, base)
			})
		}
	}
}

// goodImage pulls an image that no crash may take away.
func goodImage(t *testing.T, root, base string) {
	t.Helper()
	s := openAt(t, root, nil)
	defer s.Close()
	if _, err := s.Pull(context.Background(), base+":0", PullOptions{}); err != nil {
		t.Fatal(err)
	}
}

// checkHealed opens what a crash has left and uses it.
func checkHealed(t *testing.T, root, base string) {
	t.Helper()
	ctx := context.Background()
	s := openAt(t, root, nil)
	defer s.Close()
	settled(t, s) // everything has an owner, every blob its digest, every layer its inodes
	for _, img := range s.List() {
		if _, err := s.Prepare(ctx, "probe", img); err != nil {
			t.Errorf("an image that is listed can't be used: %v", err)
		}
		if err := s.RemoveRootfs(ctx, "probe"); err != nil {
			t.Error(err)
		}
	}
	for _, tag := range []string{":1", ":2"} {
		if _, err := s.Pull(ctx, base+tag, PullOptions{}); err != nil {
			t.Errorf("pull after the crash: %v", err)
		}
	}
	for _, key := range s.Rootfses() {
		if err := s.RemoveRootfs(ctx, key); err != nil {
			t.Error(err)
		}
	}
	for _, img := range s.List() {
		if err := s.Remove(ctx, img.ID.String()); err != nil {
			t.Error(err)
		}
	}
	checkEmpty(t, s)
}

// An error at any failpoint is returned or logged, and leaves the store whole as well.
func TestErrorAtFailpoints(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("starts a process for each failpoint")
	}
	f := newFake(t)
	base := f.host() + "/app"
	f.push(t, "app:1", simple(t))
	f.push(t, "app:2", build(t, machine(), layer(t, file{name: "two", body: "2"})))
	for _, p := range []string{"image/blob/before", "image/blob/after", "image/layer/before", "image/layer/after", "image/record/before",
		"image/record/after", "image/ingest/blob", "image/ingest/blob-bytes", "image/ingest/blob-unsynced", "image/ingest/layer", "image/ingest/layer-unpacked", "image/write/half", "image/syncfs/before", "image/snapshot/dirs", "image/snapshot/before", "image/snapshot/after", "image/discard/before"} {
		t.Run(p, func(t *testing.T) {
			root := t.TempDir()
			crashChild(t, base, root, p+"=error")
			checkHealed(t, root, base)
		})
	}
}
