package quota

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/11f9778f/berth/internal/sys"
)

const (
	first = 0x42000000
	last  = 0x42ffffff
	// attempts are the ids that Give tries, where one after the other fails.
	attempts = 4
)

// Limit is the most that a folder may take; 0 is no limit.
type Limit struct{ Bytes, Inodes int64 }

// IsZero says that there is no limit.
func (l Limit) IsZero() bool { return l == Limit{} }

// Lower returns the lower limit of both, of bytes and of inodes.
func (l Limit) Lower(m Limit) Limit {
	return Limit{Bytes: lower(l.Bytes, m.Bytes), Inodes: lower(l.Inodes, m.Inodes)}
}

func lower(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Book knows which project ids of a filesystem are taken. All methods may be called at the same time.
type Book struct {
	disk     Disk
	enforces bool

	mu sync.Mutex // under it there is no system call
	// used counts the folders of each id: those of ours, and 1 for what somebody else has.
	used    map[uint32]int
	free    []uint32 // ids that are not used, before those from next on
	next    uint32
	leaving []uint32 // whose folders are gone, while the kernel still counts something
}

// New is Open with the filesystem given.
func New(d Disk, enforces bool) *Book {
	return &Book{disk: d, enforces: enforces, used: map[uint32]int{}, next: first}
}

// Enforces says whether limits are held. Otherwise Usage is all that can be had.
func (b *Book) Enforces() bool { return b.enforces }

// Close gives the filesystem free. The folders keep their ids and limits.
func (b *Book) Close() error { return b.disk.Close() }

// Of returns the id of a folder, 0 if it has none of this package's.
func (b *Book) Of(path string) (uint32, error) {
	id, err := b.disk.Project(path)
	if err != nil || id < first || id > last {
		return 0, err
	}
	return id, nil
}

// Learn takes note of a folder from before this book, and of its id.
func (b *Book) Learn(path string) error {
	id, err := b.Of(path)
	if err != nil || id == 0 {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[id]++
	return nil
}

// Give gives an empty folder an id of its own, which has no limit yet.
func (b *Book) Give(path string) (uint32, error) {
	var failed []uint32
	defer func() {
		for _, id := range failed {
			b.giveBack(id)
		}
	}()
	for {
		id, err := b.choose()
		if err != nil {
			return 0, err
		}
		ours, err := b.claim(path, id)
		switch {
		case ours:
			return id, nil
		case err != nil: // what the disk has of one id may be damaged, and of the next not
			failed = append(failed, id)
			if len(failed) == attempts {
				return 0, fmt.Errorf("give %s the project id %d: %w", path, id, err)
			}
		}
		// Somebody else's: it stays used as long as the book is open.
	}
}

// choose reserves an id that this book does not use.
func (b *Book) choose() (uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.free); n > 0 {
		id := b.free[n-1]
		b.free = b.free[:n-1]
		b.used[id] = 1
		return id, nil
	}
	for ; b.next <= last; b.next++ {
		if b.used[b.next] == 0 {
			b.used[b.next] = 1
			b.next++
			return b.next - 1, nil
		}
	}
	return 0, fmt.Errorf("all project ids from %d to %d are taken", uint32(first), uint32(last))
}

func (b *Book) giveBack(id uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.used, id)
	b.free = append(b.free, id)
}

// claim puts the folder into the project, and says whether it is alone there. Two processes that want the same id at the
// same time find both of them there, and both try another one.
func (b *Book) claim(path string, id uint32) (bool, error) {
	q, err := b.disk.Quota(id)
	if err != nil || q.Inodes > 0 || q.Bytes > 0 {
		return false, err
	}
	if err := b.disk.SetProject(path, id); err != nil {
		return false, err
	}
	q, err = b.disk.Quota(id)
	if err == nil && q.Inodes == 1 && (Limit{q.MaxBytes, q.MaxInodes}) != (Limit{}) {
		err = b.disk.SetLimit(id, Limit{}) // a crash has left it
	}
	if err != nil || q.Inodes != 1 {
		return false, errors.Join(err, b.disk.SetProject(path, 0))
	}
	return true, nil
}

// Limit sets the most that the folders of an id may take. What they exceed already keeps them from growing.
func (b *Book) Limit(id uint32, l Limit) error {
	if err := b.disk.SetLimit(id, l); err != nil {
		return fmt.Errorf("limit the project %d: %w", id, err)
	}
	return nil
}

// Usage is what the folders of an id take, and may take.
func (b *Book) Usage(id uint32) (sys.ProjectQuota, error) {
	q, err := b.disk.Quota(id)
	if err != nil {
		return q, fmt.Errorf("ask for the quota of the project %d: %w", id, err)
	}
	return q, nil
}

// Lift takes the limit of an id away, whose folder is about to be deleted: afterwards the id may be somebody else's.
func (b *Book) Lift(id uint32) error {
	b.mu.Lock()
	shared := b.used[id] > 1
	b.mu.Unlock()
	if shared {
		return nil
	}
	q, err := b.Usage(id)
	if err != nil || q.MaxBytes == 0 && q.MaxInodes == 0 {
		return err
	}
	return b.Limit(id, Limit{})
}

// Release says that a folder with that id is gone. The id is used again when the kernel counts nothing for it.
func (b *Book) Release(id uint32) {
	b.mu.Lock()
	if b.used[id] > 1 {
		b.used[id]--
	} else {
		b.leaving = append(b.leaving, id)
	}
	b.mu.Unlock()
	b.settle()
}

// settle frees those of the leaving ids that nothing is counted for any more: a file that is deleted counts while
// somebody has it open, and XFS deletes in the background.
func (b *Book) settle() {
	b.mu.Lock()
	waiting := b.leaving
	b.leaving = nil
	b.mu.Unlock()
	for _, id := range waiting {
		q, err := b.disk.Quota(id)
		gone := err == nil && q.Inodes == 0 && q.Bytes == 0
		b.mu.Lock()
		if gone {
			delete(b.used, id)
			b.free = append(b.free, id)
		} else {
			b.leaving = append(b.leaving, id)
		}
		b.mu.Unlock()
	}
}

// Stray returns the ids that have a limit and no files, and that no folder has which this book knows: a crash has left
// the limit. Until ClearStray somebody may take one.
func (b *Book) Stray() ([]uint32, error) {
	b.settle()
	var stray []uint32
	for from := uint32(first); ; {
		id, q, err := b.disk.Next(from)
		switch {
		case errors.Is(err, sys.ErrNoMoreQuotas) || err == nil && id > last:
			return stray, nil
		case err != nil:
			return stray, fmt.Errorf("look for projects from %d on: %w", from, err)
		}
		b.mu.Lock()
		used := b.used[id] > 0
		b.mu.Unlock()
		if !used && q.Inodes == 0 && q.Bytes == 0 && (q.MaxBytes > 0 || q.MaxInodes > 0) {
			stray = append(stray, id)
		}
		from = id + 1
	}
}

// ClearStray takes the limit of an id away that Stray has returned, and says whether it has: not if somebody has taken the id
// since. Meanwhile the id belongs to scratch, an empty folder of the caller's, so that neither this book nor another one on
// the filesystem gives it to a folder and limits that.
func (b *Book) ClearStray(id uint32, scratch string) (bool, error) {
	if !b.reserve(id) {
		return false, nil
	}
	defer b.giveBack(id)
	ours, err := b.claim(scratch, id)
	if ours {
		err = b.disk.SetProject(scratch, 0)
	}
	if err != nil {
		return false, fmt.Errorf("take the limit of the project %d away: %w", id, err)
	}
	return ours, nil
}

// reserve takes an id as choose does, and says whether it was not used.
func (b *Book) reserve(id uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used[id] > 0 {
		return false
	}
	b.used[id] = 1
	b.free = slices.DeleteFunc(b.free, func(f uint32) bool { return f == id })
	return true
}
