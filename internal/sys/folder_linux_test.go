package sys

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openTemp(t *testing.T) (*Folder, string) {
	t.Helper()
	path := t.TempDir()
	d, err := OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestInRootStaysInside(t *testing.T) {
	d, path := openTemp(t)
	if err := os.MkdirAll(filepath.Join(path, "etc/inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Symlink("/etc", filepath.Join(path, "abs"))
	os.Symlink("../../../../etc", filepath.Join(path, "up"))
	want, err := os.Stat(filepath.Join(path, "etc/inner"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"abs/inner", "up/inner", "/etc/inner", "../../etc/inner"} {
		sub, err := d.InRoot(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		got, err := os.Stat(sub.Path())
		if err != nil || !os.SameFile(want, got) {
			t.Errorf("%s leads elsewhere (%v)", p, err)
		}
		sub.Close()
	}
	if _, err := d.Beneath("abs/inner"); !errors.Is(err, ErrLoop) {
		t.Errorf("Beneath followed a link: %v", err)
	}
}

func TestOpenRegularRefusesOthers(t *testing.T) {
	d, path := openTemp(t)
	os.Symlink("/etc/passwd", filepath.Join(path, "link"))
	if err := d.Mknod("fifo", NodeFifo, 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo"} {
		if f, err := d.OpenRegular(name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

// A container can nest directories far deeper than a path or the descriptor limit allows.
func TestTreesOfAnyDepth(t *testing.T) {
	d, path := openTemp(t)
	const depth = 3000
	if err := d.Mkdir("deep", 0o755); err != nil {
		t.Fatal(err)
	}
	cur, err := d.Sub("deep")
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := cur.Mkdir("d", 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := cur.Create("f")
		if err != nil {
			t.Fatal(err)
		}
		f.Write([]byte("x"))
		f.Close()
		next, err := cur.Sub("d")
		if err != nil {
			t.Fatal(err)
		}
		cur.Close()
		cur = next
	}
	cur.Close()
	_, inodes, err := d.DiskUsage(context.Background())
	if err != nil || inodes != 2*depth+2 {
		t.Errorf("DiskUsage: %d inodes, %v; want %d", inodes, err, 2*depth+2)
	}
	if err := d.RemoveAll(context.Background(), "deep"); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(path)
	if len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestRemoveAllFollowsNoLink(t *testing.T) {
	d, path := openTemp(t)
	host := t.TempDir()
	canary := filepath.Join(host, "canary")
	os.WriteFile(canary, []byte("alive"), 0o600)
	os.MkdirAll(filepath.Join(path, "tree/sub"), 0o755)
	os.Symlink(host, filepath.Join(path, "tree/sub/out"))
	os.Link(canary, filepath.Join(path, "tree/hard"))
	if err := d.RemoveAll(context.Background(), "tree"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "alive" {
		t.Errorf("HOST PATH WAS CHANGED: %q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(path, "tree")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tree is still there: %v", err)
	}
	if err := d.RemoveAll(context.Background(), "tree"); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
}

func TestDiskUsageCountsHardLinksOnce(t *testing.T) {
	d, path := openTemp(t)
	os.WriteFile(filepath.Join(path, "a"), []byte(strings.Repeat("x", 8192)), 0o600)
	before, n1, _ := d.DiskUsage(context.Background())
	os.Link(filepath.Join(path, "a"), filepath.Join(path, "b"))
	after, n2, _ := d.DiskUsage(context.Background())
	if before != after || n1 != n2 {
		t.Errorf("a second name cost %d bytes, %d inodes", after-before, n2-n1)
	}
}
