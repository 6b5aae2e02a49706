package quota

import (
	"errors"
	"fmt"

	"github.com/11f9778f/berth/internal/sys"
)

// ErrUnsupported is a filesystem that does not count what projects take, or does not hold them to limits.
var ErrUnsupported = errors.New("no project quota")

// Disk is a filesystem with projects.
type Disk interface {
	// Project returns the id of the folder at path and of what is made in it, 0 where that has none or another. SetProject
	// changes it: of the folder, and of what is made in it later.
	Project(path string) (uint32, error)
	SetProject(path string, id uint32) error
	// Quota, SetLimit and Next are those of sys.Folder.
	Quota(id uint32) (sys.ProjectQuota, error)
	SetLimit(id uint32, limit Limit) error
	Next(id uint32) (uint32, sys.ProjectQuota, error)
	Close() error
}

// Open returns a book of the filesystem that the folder base is on, for folders in base. The error wraps
// ErrUnsupported where that can't be, and says why.
func Open(base string) (*Book, error) {
	dir, err := sys.OpenFolder(base)
	if err != nil {
		return nil, err
	}
	enforces, err := look(dir)
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("%w at %s: %w", ErrUnsupported, base, err)
	}
	return New(disk{dir}, enforces), nil
}

// look says whether the filesystem of dir holds projects to their limits; it is an error if it does not even count.
func look(dir *sys.Folder) (enforces bool, err error) {
	id, inherited, err := dir.Project()
	if err != nil {
		return false, fmt.Errorf("its filesystem knows no projects: %w", err)
	}
	if inherited {
		return false, fmt.Errorf("the folder and all in it belong to the project %d already", id)
	}
	state, err := dir.ProjectQuotaState()
	if err != nil {
		return false, fmt.Errorf("the kernel tells of no quota there: %w", err)
	}
	if !state.Counts {
		return false, errors.New("projects are not counted there")
	}
	if _, err := dir.ProjectQuota(first); err != nil {
		return false, fmt.Errorf("ask for a project's quota: %w", err)
	}
	return state.Enforces, nil
}

// disk is the filesystem that a folder is on.
type disk struct{ base *sys.Folder }

func (d disk) Close() error { return d.base.Close() }

func (d disk) Quota(id uint32) (sys.ProjectQuota, error) { return d.base.ProjectQuota(id) }

func (d disk) SetLimit(id uint32, l Limit) error {
	return d.base.SetProjectLimits(id, l.Bytes, l.Inodes)
}

func (d disk) Next(id uint32) (uint32, sys.ProjectQuota, error) { return d.base.NextProjectQuota(id) }

func (d disk) Project(path string) (uint32, error) {
	f, err := sys.OpenFolder(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	id, inherited, err := f.Project()
	if err != nil || !inherited {
		return 0, err
	}
	return id, nil
}

func (d disk) SetProject(path string, id uint32) error {
	f, err := sys.OpenFolder(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.SetProject(id)
}
