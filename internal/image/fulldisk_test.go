package image

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a tmpfs for the test.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, options); err != nil {
		t.Skipf("no tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	return root
}

func TestFullDisk(t *testing.T) {
	root := smallDisk(t, "size=2m")
	f := newFake(t)
	s := openAt(t, root, nil)
	defer s.Close()
	big := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB that compress well: unpacking fills the disk
	mustFail(t, s, f.push(t, "zeros:1", build(t, machine(), layer(t, file{name: "big", body: big}))), ErrNoSpace, root, "full", "free some space")
	mustFail(t, s, f.push(t, "random:1", randomImage(t, 1<<20, 4)), ErrNoSpace, "full")
	small := f.push(t, "small:1", simple(t))
	if _, err := s.Pull(context.Background(), small, PullOptions{}); err != nil {
		t.Errorf("after the big one was refused: %v", err)
	}
}

func TestNoInodes(t *testing.T) {
	root := smallDisk(t, "nr_inodes=200")
	f := newFake(t)
	s := openAt(t, root, nil)
	defer s.Close()
	var files []file
	for i := range 300 {
		files = append(files, file{name: fmt.Sprint("f", i)})
	}
	mustFail(t, s, f.push(t, "many:1", build(t, machine(), layer(t, files...))), ErrNoSpace, root, "inodes")
	if _, err := s.Pull(context.Background(), f.push(t, "small:1", simple(t)), PullOptions{}); err != nil {
		t.Errorf("after the big one was refused: %v", err)
	}
}

// A disk that becomes read-only in the middle of a pull, as one with errors does.
func TestReadOnlyDisk(t *testing.T) {
	root := smallDisk(t, "size=16m")
	f := newFake(t)
	s := openAt(t, root, nil)
	defer s.Close()
	kept := f.push(t, "kept:1", simple(t))
	if _, err := s.Pull(context.Background(), kept, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	ref := f.push(t, "app:1", randomImage(t, 1000, 2))
	remount := func(flags uintptr) {
		t.Helper()
		var err error
		for range 1000 { // the kernel waits for files that the store's workers are writing
			if err = syscall.Mount("", root, "", syscall.MS_REMOUNT|flags, ""); err != syscall.EBUSY {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err != nil {
			t.Error(err)
		}
	}
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if isManifest(r) {
			remount(syscall.MS_RDONLY)
		}
		return false
	}
	_, err := s.Pull(context.Background(), ref, PullOptions{})
	if err == nil || !strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), root) {
		t.Error(err)
	}
	t.Log(err)
	if err := s.Remove(context.Background(), kept); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Error(err)
	}
	if _, err := s.Get(kept); err != nil {
		t.Errorf("an image that could not be removed is not listed: %v", err)
	}
	f.hook = nil
	remount(0)
	if _, err := s.Pull(context.Background(), ref, PullOptions{}); err != nil {
		t.Errorf("after the disk was well again: %v", err)
	}
}
