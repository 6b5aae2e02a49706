// Package quotatest has filesystems with project quota for tests: a made-up one for machines without, which counts by
// walking and holds nobody to limits, and the kernel's.
package quotatest

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/sys"
)

// attribute holds a folder's id, so that the id goes where the folder goes.
const attribute = "trusted.berth.test-project"

// Disk is quota.Disk. Only root can use it: it takes extended attributes.
type Disk struct {
	// Dirs are the folders whose entries have projects.
	Dirs []string

	mu      sync.Mutex
	limits  map[uint32]quota.Limit
	damaged map[uint32]bool
	// Hold is what Quota tells of an id beside what it finds: files that are deleted and still open.
	Hold map[uint32]int64
}

// Damage makes Quota fail for an id.
func (d *Disk) Damage(id uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.damaged == nil {
		d.damaged = map[uint32]bool{}
	}
	d.damaged[id] = true
}

// Close implements quota.Disk.
func (d *Disk) Close() error { return nil }

// Project implements quota.Disk. A folder has inherited its parent's.
func (d *Disk) Project(path string) (uint32, error) {
	id, err := project(path)
	if err == nil && id == 0 {
		return project(filepath.Dir(path))
	}
	return id, err
}

func project(path string) (uint32, error) {
	f, err := sys.OpenFolder(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := f.Getxattr(attribute)
	if errors.Is(err, sys.ErrNoXattr) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// SetProject implements quota.Disk.
func (d *Disk) SetProject(path string, id uint32) error {
	f, err := sys.OpenFolder(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Setxattr(attribute, binary.LittleEndian.AppendUint32(nil, id))
}

// Quota implements quota.Disk.
func (d *Disk) Quota(id uint32) (sys.ProjectQuota, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.damaged[id] {
		return sys.ProjectQuota{}, syscall.EIO
	}
	q := sys.ProjectQuota{MaxBytes: d.limits[id].Bytes, MaxInodes: d.limits[id].Inodes, Inodes: d.Hold[id]}
	for _, dir := range d.Dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return q, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if of, err := project(path); err != nil || of != id {
				continue
			}
			bytes, inodes := count(path)
			q.Bytes += bytes
			q.Inodes += inodes
		}
	}
	return q, nil
}

// SetLimit implements quota.Disk.
func (d *Disk) SetLimit(id uint32, l quota.Limit) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.limits == nil {
		d.limits = map[uint32]quota.Limit{}
	}
	d.limits[id] = l
	return nil
}

// Next implements quota.Disk.
func (d *Disk) Next(from uint32) (uint32, sys.ProjectQuota, error) {
	d.mu.Lock()
	var ids []uint32
	for id := range d.limits {
		if id >= from {
			ids = append(ids, id)
		}
	}
	d.mu.Unlock()
	if len(ids) == 0 {
		return 0, sys.ProjectQuota{}, sys.ErrNoMoreQuotas
	}
	id := slices.Min(ids)
	q, err := d.Quota(id)
	return id, q, err
}

func count(path string) (bytes, inodes int64) {
	filepath.Walk(path, func(_ string, fi os.FileInfo, err error) error {
		if err == nil {
			bytes += fi.Size()
			inodes++
		}
		return nil
	})
	return bytes, inodes
}
