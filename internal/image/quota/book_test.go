package quota_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/image/quota/quotatest"
)

// fake is a filesystem of its own, and a way to make folders on it.
func fake(t *testing.T) (*quotatest.Disk, func(name string) string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the test's filesystem keeps ids in trusted attributes, which take root")
	}
	dir := t.TempDir()
	return &quotatest.Disk{Dirs: []string{dir}, Hold: map[uint32]int64{}}, func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
}

func give(t *testing.T, b *quota.Book, path string) uint32 {
	t.Helper()
	id, err := b.Give(path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIDsAreUsedAgain(t *testing.T) {
	disk, mkdir := fake(t)
	b := quota.New(disk, true)
	pa, pb := mkdir("a"), mkdir("b")
	one, two := give(t, b, pa), give(t, b, pb)
	if one == two || one < 0x42000000 || two > 0x42ffffff {
		t.Fatal(one, two)
	}
	if err := b.Limit(one, quota.Limit{Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if q, err := b.Usage(one); err != nil || q.Inodes != 1 || q.MaxBytes != 1<<20 {
		t.Fatalf("%+v, %v", q, err)
	}
	if err := errors.Join(b.Lift(one), os.Remove(pa)); err != nil {
		t.Fatal(err)
	}
	disk.Hold[one] = 1 // a deleted file that is open
	b.Release(one)
	if id := give(t, b, mkdir("c")); id == one {
		t.Error("an id is used again while something is counted for it")
	}
	delete(disk.Hold, one)
	if stray, err := b.Stray(); err != nil || len(stray) != 0 {
		t.Errorf("%v, %v", stray, err)
	}
	if q, _ := b.Usage(one); q.MaxBytes != 0 {
		t.Errorf("the limit is left: %+v", q)
	}
	if id := give(t, b, mkdir("d")); id != one {
		t.Errorf("%d is not used again, but %d is given", one, id)
	}
}

// What a crash leaves: folders with ids that nobody has written down, and limits of folders that are gone.
func TestLearn(t *testing.T) {
	disk, mkdir := fake(t)
	b := quota.New(disk, true)
	pa, pb, other := mkdir("a"), mkdir("b"), mkdir("other")
	one, two := give(t, b, pa), give(t, b, pb)
	if err := errors.Join(b.Limit(one, quota.Limit{Inodes: 5}), b.Limit(two, quota.Limit{Bytes: 5}), os.Remove(pb), disk.SetProject(other, 1048577)); err != nil {
		t.Fatal(err)
	}

	b = quota.New(disk, true)
	if err := errors.Join(b.Learn(pa), b.Learn(other)); err != nil {
		t.Fatal(err)
	}
	if id, err := b.Of(other); err != nil || id != 0 {
		t.Errorf("a kubelet's id is taken for one of ours: %d, %v", id, err)
	}
	if stray, err := b.Stray(); err != nil || !slices.Equal(stray, []uint32{two}) {
		t.Fatalf("%v, %v", stray, err)
	}
	if id := give(t, b, mkdir("c")); id != two {
		t.Errorf("%d", id)
	}
	if q, _ := b.Usage(two); q.MaxBytes != 0 {
		t.Errorf("a new folder has an old limit: %+v", q)
	}
	if err := b.Learn(filepath.Join(pa, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A folder that was copied with its id shares it, and the id goes with the last of them.
func TestSharedID(t *testing.T) {
	disk, mkdir := fake(t)
	pa, pb := mkdir("a"), mkdir("b")
	id := give(t, quota.New(disk, true), pa)
	b := quota.New(disk, true)
	limit := quota.Limit{Bytes: 1 << 20}
	if err := errors.Join(disk.SetProject(pb, id), b.Learn(pa), b.Learn(pb), b.Limit(id, limit), b.Lift(id), os.Remove(pa)); err != nil {
		t.Fatal(err)
	}
	b.Release(id)
	if q, err := b.Usage(id); err != nil || q.MaxBytes != limit.Bytes {
		t.Errorf("the folder that is left has no limit: %+v, %v", q, err)
	}
	if got := give(t, b, mkdir("c")); got == id {
		t.Error("an id is given again that a folder has")
	}
	if err := os.Remove(pb); err != nil {
		t.Fatal(err)
	}
	b.Release(id)
	if got := give(t, b, mkdir("d")); got != id {
		t.Error(got)
	}
}

// Books that do not know each other, on one filesystem, at once.
func TestSeveralBooks(t *testing.T) {
	disk, mkdir := fake(t)
	var mu sync.Mutex
	owners := map[uint32]string{}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		var folders []string
		for i := range 8 {
			folders = append(folders, mkdir(name+string(rune('0'+i))))
		}
		b := quota.New(disk, true)
		wg.Go(func() {
			for _, path := range folders {
				id, err := b.Give(path)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				if owners[id] != "" {
					t.Errorf("%s and %s have the project %d", path, owners[id], id)
				}
				owners[id] = path
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestLower(t *testing.T) {
	a, b := quota.Limit{Bytes: 10}, quota.Limit{Bytes: 20, Inodes: 3}
	want := quota.Limit{Bytes: 10, Inodes: 3}
	if a.Lower(b) != want || b.Lower(a) != want || !(quota.Limit{}).Lower(quota.Limit{}).IsZero() {
		t.Error(a.Lower(b), b.Lower(a))
	}
}

// Most filesystems have none; the error says why.
func TestUnsupported(t *testing.T) {
	b, err := quota.Open("/proc")
	if err == nil {
		b.Close()
	}
	if !errors.Is(err, quota.ErrUnsupported) {
		t.Error(err)
	}
	if b, err = quota.Open(t.TempDir()); err == nil {
		b.Close()
	}
	t.Logf("here: %v", err)
}

// interrupted is a disk on which something happens before a limit is set.
type interrupted struct {
	quota.Disk
	before func()
}

func (d interrupted) SetLimit(id uint32, l quota.Limit) error {
	d.before()
	return d.Disk.SetLimit(id, l)
}

// A limit that a crash has left goes, and never that of somebody who takes the id meanwhile.
func TestClearStray(t *testing.T) {
	const id = 0x42000000 // the first that is given
	for name, tt := range map[string]struct {
		own, early, late, cleared bool
	}{
		"nobody takes it":                  {cleared: true},
		"taken before":                     {own: true, early: true},
		"taken before by another book":     {early: true},
		"wanted meanwhile":                 {own: true, late: true, cleared: true},
		"wanted meanwhile by another book": {late: true, cleared: true},
	} {
		t.Run(name, func(t *testing.T) {
			disk, mkdir := fake(t)
			if err := disk.SetLimit(id, quota.Limit{Bytes: 5}); err != nil {
				t.Fatal(err)
			}
			scratch, want := mkdir("scratch"), quota.Limit{Bytes: 7}
			var b, other *quota.Book
			take := func() {
				of := other
				if tt.own {
					of = b
				}
				got := give(t, of, mkdir("taken"))
				if tt.late == (got == id) {
					t.Errorf("%d is given", got)
				}
				if err := of.Limit(got, want); err != nil {
					t.Error(err)
				}
			}
			interrupt := tt.late
			b, other = quota.New(interrupted{disk, func() {
				if interrupt {
					interrupt = false
					take()
				}
			}}, true), quota.New(disk, true)
			if stray, err := b.Stray(); err != nil || !slices.Equal(stray, []uint32{id}) {
				t.Fatalf("%v, %v", stray, err)
			}
			if tt.early {
				take()
			}
			if cleared, err := b.ClearStray(id, scratch); err != nil || cleared != tt.cleared {
				t.Errorf("%v, %v", cleared, err)
			}
			q, err := disk.Quota(id)
			if err != nil || tt.early && q.MaxBytes != want.Bytes || !tt.early && q.MaxBytes != 0 {
				t.Errorf("%+v, %v", q, err)
			}
			if of, err := disk.Project(scratch); err != nil || of != 0 {
				t.Errorf("the scratch folder keeps the project %d, %v", of, err)
			}
		})
	}
}

// An id that the disk can't tell of is left out.
func TestDamagedID(t *testing.T) {
	disk, mkdir := fake(t)
	disk.Damage(0x42000000)
	b := quota.New(disk, true)
	one, two := give(t, b, mkdir("a")), give(t, b, mkdir("b"))
	if one == 0x42000000 || two == 0x42000000 || one == two {
		t.Error(one, two)
	}
	for id := range uint32(16) {
		disk.Damage(0x42000000 + id)
	}
	if _, err := b.Give(mkdir("c")); !errors.Is(err, syscall.EIO) {
		t.Error(err)
	}
}
