package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/image/quota/quotatest"
)

// counting is a store's configuration with project quota of the test's own.
func counting(disk *quotatest.Disk, enforces bool) func(*Config) {
	return func(c *Config) {
		c.openQuota = func(base string) (*quota.Book, error) {
			disk.Dirs = []string{base, filepath.Join(base, ".trash")}
			return quota.New(disk, enforces), nil
		}
	}
}

func known(t *testing.T, s *Store, key string) Usage {
	t.Helper()
	u, at, err := s.KnownUsage(t.Context(), key)
	if err != nil || at.IsZero() {
		t.Fatalf("%s: %v %v", key, at, err)
	}
	return u
}

func prepare(t *testing.T, s *Store, key string, img *Image, limit Limit) Rootfs {
	t.Helper()
	r, err := s.PrepareLimited(t.Context(), key, img, limit)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func remove(t *testing.T, s *Store, key string) {
	t.Helper()
	if err := s.RemoveRootfs(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	await(t, "the snapshot is deleted", func() bool {
		left, err := os.ReadDir(s.snapTrash)
		s.mu.Lock()
		defer s.mu.Unlock()
		return err == nil && len(left) == 0 && len(s.trashed) == 0
	})
}

// Each snapshot is a project, with a limit of its own, from its first to its last moment, over restarts.
func TestProjects(t *testing.T) {
	root, disk := t.TempDir(), &quotatest.Disk{}
	options := func(c *Config) { counting(disk, true)(c); c.WritableLimit = Limit{Bytes: 8 << 20, Inodes: 500} }
	s := openAt(t, root, options)
	img := put(t, s, simple(t))
	r := prepare(t, s, "c1", img, Limit{Bytes: 2 << 20})
	prepare(t, s, "c2", img, Limit{Bytes: 16 << 20})
	one, two := s.project(s.snapshot("c1")), s.project(s.snapshot("c2"))
	if one == 0 || two == 0 || one == two {
		t.Fatal(one, two)
	}
	before := known(t, s, "c1")
	if before.MaxBytes != 2<<20 || before.MaxInodes != 500 {
		t.Errorf("the lower limits do not count: %+v", before)
	}
	if u := known(t, s, "c2"); u.MaxBytes != 8<<20 {
		t.Errorf("the node's limit was raised: %+v", u)
	}
	if err := os.WriteFile(r.Upper+"/file", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if u := known(t, s, "c1"); u.Bytes != before.Bytes+1<<20 || u.Inodes != before.Inodes+1 {
		t.Errorf("%+v, and before %+v", u, before)
	}
	remove(t, s, "c2")
	prepare(t, s, "c3", img, Limit{})
	if id := s.project(s.snapshot("c3")); id != two {
		t.Errorf("a blank snapshot has the project %d, it had %d", id, two)
	}
	if _, err := s.Prepare(t.Context(), "c1", img); err != nil { // as after the daemon's crash: the limit stays as it was
		t.Error(err)
	}
	s.Close()

	s = openAt(t, root, options)
	if u := known(t, s, "c1"); u.Bytes != before.Bytes+1<<20 || u.MaxBytes != 2<<20 {
		t.Errorf("after a restart: %+v", u)
	}
	prepare(t, s, "c4", img, Limit{})
	four := s.project(s.snapshot("c4"))
	if four == one || four == two || four == 0 {
		t.Errorf("the project %d is given again; %d and %d are in use", four, one, two)
	}
	remove(t, s, "c1")
	if q, err := disk.Quota(one); err != nil || q.MaxBytes != 0 || q.Inodes != 0 {
		t.Errorf("left of a snapshot that is gone: %+v, %v", q, err)
	}
	prepare(t, s, "c5", img, Limit{})
	if id := s.project(s.snapshot("c5")); id != one {
		t.Errorf("%d is not used again, but %d is given", one, id)
	}
	checkProjects(t, s, disk, four)
	s.Close()
}

// checkProjects: fsck tells of what is wrong with quotas, and mends it.
func checkProjects(t *testing.T, s *Store, disk *quotatest.Disk, other uint32) {
	t.Helper()
	const stray = 0x42ab0000
	if err := errors.Join(disk.SetLimit(stray, Limit{Bytes: 1}), disk.SetProject(s.snapshot("c5"), other)); err != nil {
		t.Fatal(err)
	}
	report, err := s.Fsck(t.Context(), FsckOptions{Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	problems := report.Problems()
	if len(problems) != 2 || !strings.Contains(problems[0].Problem, "shares the quota of c4") || !strings.Contains(problems[1].Problem, "has a limit and no files") || !problems[1].Repaired {
		t.Errorf("%+v", problems)
	}
	if q, err := disk.Quota(stray); err != nil || q.MaxBytes != 0 {
		t.Errorf("%+v, %v", q, err)
	}
}

// What a power cut leaves: a half-made snapshot with a limit, one half deleted, and the limit of one that is gone.
func TestProjectsAfterPowerCut(t *testing.T) {
	root, disk := t.TempDir(), &quotatest.Disk{}
	s := openAt(t, root, counting(disk, true))
	img := put(t, s, simple(t))
	for _, key := range []string{"made", "deleted", "gone"} {
		prepare(t, s, key, img, Limit{Bytes: 1 << 20})
	}
	made, deleted, gone := s.project(s.snapshot("made")), s.project(s.snapshot("deleted")), s.project(s.snapshot("gone"))
	s.Close()
	if err := errors.Join(os.Rename(s.snapshot("made"), s.snapshot(".new-made-1-1")), os.Rename(s.snapshot("deleted"), filepath.Join(s.snapTrash, "deleted-1-1")),
		os.WriteFile(filepath.Join(s.snapTrash, "deleted-1-1", "upper", "file"), nil, 0o600), os.RemoveAll(s.snapshot("gone"))); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, root, func(c *Config) { counting(disk, true)(c); c.Blanks = -1 })
	defer s.Close()
	for name, id := range map[string]uint32{"made": made, "deleted": deleted, "gone": gone} {
		await(t, name+" is cleared", func() bool { q, err := disk.Quota(id); return err == nil && q.MaxBytes == 0 && q.Inodes == 0 })
	}
	if list := s.Rootfses(); len(list) != 0 {
		t.Error(list)
	}
}

// A container can give its root directory to another project, if it is root on the host: the next one gets another.
func TestBlankOutOfItsProject(t *testing.T) {
	disk := &quotatest.Disk{}
	s := openStore(t, counting(disk, true))
	img := put(t, s, simple(t))
	r := prepare(t, s, "c1", img, Limit{})
	if err := disk.SetProject(r.Upper, 1048577); err != nil {
		t.Fatal(err)
	}
	remove(t, s, "c1")
	if len(s.blanks) != 0 {
		t.Error("it is kept for the next container")
	}
}

// Without overlayfs the image's copy does not count against the limit.
func TestProjectOfCopy(t *testing.T) {
	disk := &quotatest.Disk{}
	s := openStore(t, counting(disk, true))
	s.overlay = func() error { return ErrNoOverlay }
	prepare(t, s, "c1", put(t, s, simple(t)), Limit{Bytes: 1 << 20, Inodes: 10})
	u := known(t, s, "c1")
	if room := u.MaxBytes - u.Bytes; u.Bytes == 0 || room > 1<<20 || room < 1<<20-4096 || u.MaxInodes < u.Inodes+9 || u.MaxInodes > u.Inodes+10 {
		t.Errorf("%+v", u)
	}
}

// Where a limit can't be held, whoever wants one is told, and everything else goes on.
func TestNoProjectQuota(t *testing.T) {
	none := func(string) (*quota.Book, error) { return nil, quota.ErrUnsupported }
	for name, open := range map[string]func(*Config){
		"no quota":    func(c *Config) { c.openQuota = none },
		"not limited": counting(&quotatest.Disk{}, false),
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			needRoot(t)
			c := Config{Root: root, WritableLimit: Limit{Bytes: 1 << 20}}
			open(&c)
			for range 2 { // nothing stays locked
				if _, err := Open(c); !errors.Is(err, ErrNoLimit) || !strings.Contains(err.Error(), "prjquota") {
					t.Fatalf("%v", err)
				}
			}
			s := openAt(t, root, open)
			defer s.Close()
			img := put(t, s, simple(t))
			if _, err := s.PrepareLimited(context.Background(), "c1", img, Limit{Inodes: 100}); !errors.Is(err, ErrNoLimit) {
				t.Errorf("%v", err)
			}
			if list := s.Rootfses(); len(list) != 0 {
				t.Errorf("left: %v", list)
			}
			r := prepare(t, s, "c1", img, Limit{})
			if err := os.WriteFile(r.Upper+"/file", make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			if u := known(t, s, "c1"); u.Bytes < 1<<20 || u.MaxBytes != 0 {
				t.Errorf("%+v", u)
			}
		})
	}
}

// unread is a disk that can't tell the project of the folders with one name.
type unread struct {
	*quotatest.Disk
	name string
}

func (d unread) Project(path string) (uint32, error) {
	if filepath.Base(path) == d.name {
		return 0, syscall.EIO
	}
	return d.Disk.Project(path)
}

// What the filesystem has of one project can't be read: all others go on, the next start too, and fsck tells of it.
func TestDamagedQuota(t *testing.T) {
	root, disk := t.TempDir(), &quotatest.Disk{}
	s := openAt(t, root, counting(disk, true))
	img := put(t, s, simple(t))
	prepare(t, s, "c1", img, Limit{})
	one := s.project(s.snapshot("c1"))
	remove(t, s, "c1")
	disk.Damage(one) // that of a blank snapshot
	prepare(t, s, "c2", img, Limit{})
	two := s.project(s.snapshot("c2"))
	if two == one || two == 0 {
		t.Errorf("%d, it was %d", two, one)
	}
	disk.Damage(two) // that of a snapshot in use
	remove(t, s, "c2")
	if len(s.blanks) != 0 {
		t.Error("it is kept for the next container")
	}
	prepare(t, s, "c3", img, Limit{Bytes: 1 << 20})
	s.Close()

	s = openAt(t, root, func(c *Config) {
		c.openQuota = func(string) (*quota.Book, error) { return quota.New(unread{disk, "c3"}, true), nil }
	})
	defer s.Close()
	if err := disk.SetLimit(0x42ab0000, Limit{Bytes: 1}); err != nil {
		t.Fatal(err)
	}
	disk.Damage(0x42ab0000)
	report, err := s.Fsck(t.Context(), FsckOptions{Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := report.Problems(); len(p) != 1 || !strings.Contains(p[0].Problem, "quota can't be read") || p[0].Repaired {
		t.Errorf("%+v", p)
	}
	prepare(t, s, "c4", img, Limit{Bytes: 1 << 20})
}
