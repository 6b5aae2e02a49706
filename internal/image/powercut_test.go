package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A process that is killed after any of its system calls, and a machine that loses its power then, with what was not
// synced lost or torn, leave a store that the next start repairs by itself: what was there or had been reported is
// there, whole, and nothing is nobody's.
func TestPowerCut(t *testing.T) {
	needRoot(t)
	if testing.Short() {
		t.Skip("opens some thousand stores")
	}
	f := newFake(t)
	base := f.host() + "/app"
	f.push(t, "app:0", build(t, machine(), layer(t, file{name: "zero", body: "0"})))
	f.push(t, "app:1", simple(t))
	f.push(t, "app:2", build(t, machine(), layer(t, file{name: "two", body: "2"}), layer(t, file{name: "two-b", body: strings.Repeat("b", 9000)})))
	seen := map[[32]byte]bool{}
	for _, failpoint := range []string{"", "image/syncfs/before=error@0"} { // layers are synced very soon, and never
		root := filepath.Join(t.TempDir(), "root")
		log := record(t, "TestCrashChild", append(crashEnv(t, base, root), "BERTH_TEST_CRASH_GOOD="+base+":0", "BERTH_FAILPOINT="+failpoint)...)
		cutAll(t, log, root, seen)
	}
	t.Logf("%d different states", len(seen))
}

// cutAll lets the power fail after each step of a recorded run.
func cutAll(t *testing.T, log, root string, seen map[[32]byte]bool) {
	t.Helper()
	at := filepath.Join(memory(t), "after")
	play(t, log, root, func(d *disk) {
		for i, k := range cuts {
			sum := k.sum(d.top)
			sum[0] ^= byte(i)
			sum[1] ^= byte(len(d.said))
			if seen[sum] {
				continue
			}
			seen[sum] = true
			k.write(t, d.top, at, map[*node]string{})
			if err := survives(t, at, k.reboot, d.said); err != nil {
				t.Fatalf("after call %d, %s: %v\nthe process had said %v\nthe disk: %v", d.parsed, k.name, err, d.said, tree(t, at))
			}
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// memory is a folder that is gone after the test, in memory where that can be had: there nothing waits for a disk.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "berth-powercut-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// contentsAfter are a file of each layer of the images in TestCrashChild.
var contentsAfter = map[string]map[string]string{
	"app:0":                  {"zero": "0"},
	"app:1":                  {"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n", "dir/above": "3"},
	"app:2":                  {"two": "2", "two-b": strings.Repeat("b", 9000)},
	"imported.example/app:1": {"imported": "i"},
	"imported.example/app:2": {"imported": "i"},
}

// survives opens a store as the next start does, and looks at what is there.
func survives(t *testing.T, root string, reboot bool, said []string) error {
	s, err := newStore(Config{Root: root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if s.boot = bootID(); reboot {
		s.boot = "the next one"
	}
	if err := s.start(); err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	expect := map[string]byte{}
	for _, m := range said {
		expect[m[1:]] = m[0]
	}
	for what, sign := range expect {
		namespace, name := DefaultNamespace, what
		if rest, ok := strings.CutPrefix(what, "moby/"); ok {
			namespace, name = "moby", rest
		}
		_, err := in(t, s, namespace).Get(name)
		if sign == '+' && err != nil || sign == '-' && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%c%s: %w", sign, what, err)
		}
	}
	for _, img := range everybodys(t, s) {
		for _, name := range img.RepoTags {
			if err := usable(ctx, s, img, name); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for _, key := range s.Rootfses() { // what a runtime does that finds no container for it
		if err := s.RemoveRootfs(ctx, key); err != nil {
			return err
		}
	}
	settled(t, s)
	return nil
}

// usable makes a root filesystem of an image and reads files of all its layers.
func usable(ctx context.Context, s *Store, img *Image, name string) error {
	if _, err := s.Prepare(ctx, "probe", img); err != nil {
		return err
	}
	short := name
	if _, rest, ok := strings.Cut(name, "/app:"); ok && !strings.HasPrefix(name, "imported") {
		short = "app:" + rest
	}
	for file, want := range contentsAfter[short] {
		got, err := s.ReadFile(ctx, img, file, 1<<20)
		if err != nil || string(got) != want {
			return fmt.Errorf("%s: %.20q, %w", file, got, err)
		}
	}
	return s.RemoveRootfs(ctx, "probe")
}
