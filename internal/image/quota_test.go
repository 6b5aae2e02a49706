package image

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/image/quota/quotatest"
	"github.com/11f9778f/berth/internal/sys"
)

// These need a kernel with quota, which build machines may lack: test/vm/quota runs them in a virtual machine.

// isFull says that a limit was met: ext4 calls it EDQUOT, XFS ENOSPC.
func isFull(err error) bool { return errors.Is(err, sys.ErrQuota) || errors.Is(err, sys.ErrNoSpace) }

func TestQuotaExt4(t *testing.T) { testQuota(t, quotatest.Mount(t, "ext4", "loop,prjquota"), false) }
func TestQuotaXFS(t *testing.T)  { testQuota(t, quotatest.Mount(t, "xfs", "loop,pquota"), true) }

// fill writes into a file until something keeps it from that.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for range 1024 {
		if _, err := f.Write(make([]byte, 64<<10)); err != nil {
			return err
		}
	}
	return nil
}

// The kernel holds containers to their limits and counts what they write, one beside the other, over a restart. With strict
// the daemon itself is held to them.
func testQuota(t *testing.T, disk string, strict bool) {
	const limit = 4 << 20
	root := disk + "/berth"
	options := func(c *Config) { c.WritableLimit = Limit{Bytes: limit, Inodes: 200} }
	s := openAt(t, root, options)
	img := put(t, s, simple(t))
	r := prepare(t, s, "c1", img, Limit{})
	other, _ := mounted(t, prepare(t, s, "c2", img, Limit{}))
	c1, umount := mounted(t, r)
	empty := known(t, s, "c1")
	if empty.MaxBytes != limit || empty.MaxInodes != 200 {
		t.Errorf("%+v", empty)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(c1, &st); err != nil || int64(st.Blocks)*st.Bsize != limit {
		t.Errorf("df says %d bytes in the container: %v", int64(st.Blocks)*st.Bsize, err)
	}
	if err := os.WriteFile(c1+"/fits", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c1+"/etc/passwd", []byte("changed"), 0o600); err != nil { // copied up
		t.Fatal(err)
	}
	sameAsWalk(t, s, "c1")
	if err := fill(c1 + "/large"); !isFull(err) {
		t.Errorf("it is written beyond the limit: %v", err)
	}
	if u := known(t, s, "c1"); u.Bytes > limit || u.Bytes < limit-256<<10 {
		t.Errorf("%+v", u)
	}
	if err := os.WriteFile(other+"/large", make([]byte, limit/2), 0o600); err != nil {
		t.Errorf("another container suffers: %v", err)
	}
	if err := os.Remove(c1 + "/large"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(c1+"/again", make([]byte, 1<<20), 0o600); err != nil {
		t.Errorf("room was made: %v", err)
	}
	manyFiles(t, c1)
	one := s.project(s.snapshot("c1"))
	s.Close()

	s = openAt(t, root, options) // the container ran on
	defer s.Close()
	if s.project(s.snapshot("c1")) != one {
		t.Error("the restart has changed the project")
	}
	if err := fill(c1 + "/large"); !isFull(err) {
		t.Errorf("after a restart there is no limit: %v", err)
	}
	sameAsWalk(t, s, "c1")
	shrunk(t, s, c1)
	umount()
	idsComeBack(t, s, img, one)
	layerTooLarge(t, s, img, strict)
	copyIsLimited(t, s, img)
}

// sameAsWalk: the kernel counts what a walk finds, and the few folders of the snapshot itself.
func sameAsWalk(t *testing.T, s *Store, key string) {
	t.Helper()
	dir, err := sys.OpenFolder(s.snapshot(key))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := dir.Syncfs(); err != nil { // what is not written yet has no blocks, but counts
		t.Fatal(err)
	}
	bytes, inodes, err := dir.DiskUsage(t.Context())
	if u := known(t, s, key); err != nil || u.Bytes != bytes || u.Inodes != inodes {
		t.Errorf("the quota has %d bytes and %d inodes, a walk finds %d and %d, %v", u.Bytes, u.Inodes, bytes, inodes, err)
	}
	upper, err := s.Usage(t.Context(), key)
	if own := bytes - upper.Bytes; err != nil || own < 0 || own > 64<<10 || inodes-upper.Inodes > 8 {
		t.Errorf("the snapshot's own folders take %d bytes, %d inodes: %v", own, inodes-upper.Inodes, err)
	}
}

func manyFiles(t *testing.T, dir string) {
	t.Helper()
	for i := range 300 {
		err := os.WriteFile(dir+"/inode"+strings.Repeat("x", i/26)+string(rune('a'+i%26)), nil, 0o600)
		switch {
		case isFull(err) && i > 150:
			return
		case err != nil:
			t.Fatalf("file %d: %v", i, err)
		}
	}
	t.Error("300 files are made, 200 may be")
}

// shrunk: a limit below what is there lets nothing more in, and everything out.
func shrunk(t *testing.T, s *Store, dir string) {
	t.Helper()
	if err := s.quota.Limit(s.project(s.snapshot("c1")), Limit{Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/more", make([]byte, 64<<10), 0o600); !isFull(err) {
		t.Errorf("it is written beyond the new limit: %v", err)
	}
	if b, err := os.ReadFile(dir + "/fits"); err != nil || len(b) != 1<<20 {
		t.Errorf("what was there: %d bytes, %v", len(b), err)
	}
	if err := os.Remove(dir + "/fits"); err != nil {
		t.Error(err)
	}
}

// idsComeBack: the id of a container that is gone is free, and has no limit. (XFS deletes in the background: there it may
// take until the next container goes.)
func idsComeBack(t *testing.T, s *Store, img *Image, id uint32) {
	t.Helper()
	remove(t, s, "c1")
	await(t, "the project has no files and no limit", func() bool {
		if stray, err := s.quota.Stray(); err != nil || len(stray) > 0 {
			t.Fatalf("%v, %v", stray, err)
		}
		q, err := s.quota.Usage(id)
		return err == nil && q == (sys.ProjectQuota{})
	})
	prepare(t, s, "c3", img, Limit{})
	if s.project(s.snapshot("c3")) != id {
		t.Errorf("%d is not used again, but %d is given", id, s.project(s.snapshot("c3")))
	}
	if u := known(t, s, "c3"); u.MaxBytes != 4<<20 || u.Bytes > 64<<10 {
		t.Errorf("%+v", u)
	}
	const stray = 0x42ab0000
	if err := s.quota.Limit(stray, Limit{Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.quota.Stray(); err != nil || len(got) != 1 || got[0] != stray {
		t.Errorf("%v, %v", got, err)
	}
	if err := s.learnProjects(); err != nil {
		t.Error(err)
	}
	if q, err := s.quota.Usage(stray); err != nil || q.MaxBytes != 0 {
		t.Errorf("a limit that a crash has left: %+v, %v", q, err)
	}
}

// layerTooLarge: what a checkpoint brings along is limited as well, unless the daemon may exceed quotas (ext4).
func layerTooLarge(t *testing.T, s *Store, img *Image, strict bool) {
	t.Helper()
	prepare(t, s, "c4", img, Limit{Bytes: 1 << 20})
	tar, err := layer(t, file{name: "large", body: strings.Repeat("x", 2<<20)}).Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer tar.Close()
	if err := s.FillRootfs(t.Context(), "c4", tar); (err != nil || strict) && (!isFull(err) || !strings.Contains(err.Error(), "of at most 1048576 bytes")) {
		t.Error(err)
	}
}

// copyIsLimited: without overlayfs too, for all that may not exceed quotas.
func copyIsLimited(t *testing.T, s *Store, img *Image) {
	t.Helper()
	s.overlay = func() error { return ErrNoOverlay }
	r := prepare(t, s, "c5", img, Limit{Bytes: 1 << 20})
	write := func(kib string) error {
		return exec.Command("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "dd", "if=/dev/zero", "of="+r.Upper+"/file"+kib, "bs=1024", "count="+kib).Run()
	}
	if err := write("512"); err != nil {
		t.Error(err)
	}
	if err := write("1024"); err == nil {
		t.Errorf("it is written beyond the limit: %+v", known(t, s, "c5"))
	}
}

// Mounted without the option, ext4 counts and does not limit.
func TestQuotaCountsOnly(t *testing.T) {
	root := quotatest.Mount(t, "ext4", "loop") + "/berth"
	if _, err := Open(Config{Root: root, WritableLimit: Limit{Bytes: 1 << 20}}); !errors.Is(err, ErrNoLimit) {
		t.Fatalf("%v", err)
	}
	s := openAt(t, root, nil)
	defer s.Close()
	dir, _ := mounted(t, prepare(t, s, "c1", put(t, s, simple(t)), Limit{}))
	if s.quota == nil {
		t.Fatal("it is not counted")
	}
	if err := os.WriteFile(dir+"/file", make([]byte, 1<<20), 0o600); err != nil {
		t.Error(err)
	}
	sameAsWalk(t, s, "c1")
}
