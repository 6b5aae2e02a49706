package image

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A snapshot that nothing was written into is used again, as new; any other is deleted.
func TestBlankSnapshots(t *testing.T) {
	for name, tt := range map[string]struct {
		use  func(root string) error
		kept bool
	}{
		"nothing":            {func(string) error { return nil }, true},
		"mode and owner":     {func(r string) error { os.Chmod(r, 0o7777); return os.Chown(r, 1000, 1000) }, true},
		"written and erased": {func(r string) error { os.WriteFile(r+"/x", nil, 0o600); return os.Remove(r + "/x") }, true},
		"a file":             {func(r string) error { return os.WriteFile(r+"/secret", []byte("secret"), 0o600) }, false},
		"a deletion":         {func(r string) error { return os.Remove(r + "/etc/passwd") }, false},
		"an attribute":       {func(r string) error { return syscall.Setxattr(r, "trusted.secret", []byte("secret"), 0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := openStore(t, nil), context.Background()
			img := put(t, s, simple(t))
			r, err := s.Prepare(ctx, "c1", img)
			if err != nil {
				t.Fatal(err)
			}
			root, umount := mounted(t, r)
			if err := tt.use(root); err != nil {
				t.Fatal(err)
			}
			umount()
			if err := s.RemoveRootfs(ctx, "c1"); err != nil {
				t.Fatal(err)
			}
			await(t, "the snapshot is kept or deleted", func() bool {
				left, err := os.ReadDir(s.snapTrash)
				s.mu.Lock()
				defer s.mu.Unlock()
				return err == nil && len(left) == 0 && len(s.blanks) > 0 == tt.kept
			})
			if r, err = s.Prepare(ctx, "c2", img); err != nil {
				t.Fatal(err)
			}
			root, umount = mounted(t, r)
			fi, err := os.Stat(root)
			if err != nil || fi.Mode() != os.ModeDir|0o755 || fi.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("root directory: %v, %v", fi, err)
			}
			if _, err := os.Stat(root + "/etc/passwd"); err != nil {
				t.Error(err)
			}
			if n, err := syscall.Getxattr(root, "trusted.secret", nil); err == nil {
				t.Errorf("an attribute of %d bytes is left", n)
			}
			umount()
			if err := s.RemoveRootfs(ctx, "c2"); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(s.snapshots + "/" + blankPrefix + "*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come true: %s", what)
		}
	}
}
