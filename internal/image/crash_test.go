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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// mark tells who records this process what is there from now on (+name), may be (?name), or is not any more (-name).
func mark(format string, args ...any) { fmt.Fprintf(os.Stdout, "MARK "+format+"\n", args...) }

// TestCrashChild is the process that TestCrash kills: it pulls, prepares, imports, removes, prunes and replaces.
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
	if good := os.Getenv("BERTH_TEST_CRASH_GOOD"); good != "" {
		if _, err := s.Pull(ctx, good, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		mark("+%s", good)
	}
	crashImport(ctx, t, s)
	img, err := s.Pull(ctx, ref+":1", PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mark("+%s:1", ref)
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
	mark("+%s:2", ref)
	if _, err := s.Tag(ctx, ref+":2", "kept:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(ctx, "kept:1", true); err != nil {
		t.Fatal(err)
	}
	if err := s.Untag(ctx, "kept:1"); err != nil {
		t.Fatal(err)
	}
	mark("?%s:1", ref)
	if err := s.Remove(ctx, ref+":1"); err != nil {
		t.Fatal(err)
	}
	mark("-%s:1", ref)
	if err := s.RemoveRootfs(ctx, "c2"); err != nil {
		t.Fatal(err)
	}
	if err := s.collect(); err != nil {
		t.Fatal(err)
	}
	if err := s.syncLayers(); err != nil && os.Getenv("BERTH_FAILPOINT") == "" {
		t.Fatal(err)
	}
	s.Close()
}

// crashImport imports an image into another namespace, moves its name, and prunes what has none.
func crashImport(ctx context.Context, t *testing.T, s *Store) {
	t.Helper()
	f, err := os.Open(os.Getenv("BERTH_TEST_CRASH_ARCHIVE"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	moby, err := s.In("moby")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := moby.Import(ctx, f, ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	mark("+moby/imported.example/app:1")
	if _, err := moby.Tag(ctx, "imported.example/app:1", "imported.example/app:2"); err != nil {
		t.Fatal(err)
	}
	mark("+moby/imported.example/app:2")
	mark("?moby/imported.example/app:1")
	if err := moby.Untag(ctx, "imported.example/app:1"); err != nil {
		t.Fatal(err)
	}
	mark("-moby/imported.example/app:1")
	mark("?moby/imported.example/app:2")
	if _, err := moby.Prune(ctx, PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	mark("-moby/imported.example/app:2")
}

// crashEnv is what TestCrashChild needs.
func crashEnv(t *testing.T, ref, root string) []string {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "imported.tar")
	tag, err := name.NewTag("imported.example/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(archive, tag, build(t, machine(), layer(t, file{name: "imported", body: "i"}))); err != nil {
		t.Fatal(err)
	}
	return []string{"BERTH_TEST_CRASH_REF=" + ref, "BERTH_TEST_CRASH_ROOT=" + root, "BERTH_TEST_CRASH_ARCHIVE=" + archive}
}

func crashChild(t *testing.T, ref, root, failpoint string) error {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
	cmd.Env = append(append(os.Environ(), crashEnv(t, ref, root)...), "BERTH_FAILPOINT="+failpoint)
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
	for _, p := range failpointsOf(t, base) {
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

// failpointsOf are those that the child reaches.
func failpointsOf(t *testing.T, base string) []string {
	t.Helper()
	list := filepath.Join(t.TempDir(), "failpoints")
	if err := crashChild(t, base, t.TempDir(), "trace:"+list); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(b))
	if len(points) < 28 {
		t.Fatalf("only %d failpoints were reached: %v", len(points), points)
	}
	return points
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
	for _, img := range everybodys(t, s) {
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
	for _, img := range everybodys(t, s) {
		if err := in(t, s, img.Namespace).Remove(ctx, img.ID.String()); err != nil {
			t.Error(err)
		}
	}
	checkEmpty(t, s)
}

// everybodys lists the images of all namespaces.
func everybodys(t *testing.T, s *Store) (list []*Image) {
	t.Helper()
	for _, namespace := range s.Namespaces() {
		list = append(list, in(t, s, namespace).List()...)
	}
	return list
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
	for _, p := range failpointsOf(t, base) {
		t.Run(p, func(t *testing.T) {
			root := t.TempDir()
			crashChild(t, base, root, p+"=error")
			checkHealed(t, root, base)
		})
	}
}
