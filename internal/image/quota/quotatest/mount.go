package quotatest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Mount makes a filesystem, "ext4" or "xfs", and mounts it with these options until the test's end. The test is skipped
// where that can't be had.
func Mount(t *testing.T, kind, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	image, at := filepath.Join(dir, "disk"), filepath.Join(dir, "mount")
	size, mkfs := int64(256<<20), []string{"mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota", "-J", "size=4", image}
	if kind == "xfs" {
		size, mkfs = 310<<20, []string{"mkfs.xfs", "-q", image} // it makes none below 300 MiB
	}
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skipf("%v (Debian: e2fsprogs, xfsprogs)", err)
	}
	if err := errors.Join(os.Mkdir(at, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs[0], mkfs[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", options, image, at).CombinedOutput(); err != nil {
		t.Skipf("this kernel can't mount %s with quota: %s", kind, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(at, 0); err != nil {
			t.Errorf("unmount %s: %v", at, errors.Join(err, syscall.Unmount(at, syscall.MNT_DETACH)))
		}
	})
	return at
}
