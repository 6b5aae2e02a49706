package unpack

import (
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/sys"
)

type dirTime struct {
	path  string
	mtime time.Time
}

// dirCache opens the directories that entries go into, and keeps the last ones open: entries come in
// runs. Invariant: what is cached under a path is what resolving the path would give; whoever removes or
// replaces something calls clear.
type dirCache struct {
	root *sys.Folder
	made *int64 // counts the directories made
	dirs map[string]*sys.Folder
}

const dirCacheSize = 128

func (c *dirCache) clear() {
	for _, d := range c.dirs {
		d.Close()
	}
	clear(c.dirs)
}

// open returns the directory at a clean relative path and makes it, with its parents, where it is
// missing. It belongs to the cache.
func (c *dirCache) open(p string) (*sys.Folder, error) {
	if p == "." {
		return c.root, nil
	}
	if d, ok := c.dirs[p]; ok {
		return d, nil
	}
	d, err := c.make(p, 0)
	if err != nil {
		return nil, err
	}
	if len(c.dirs) >= dirCacheSize {
		c.clear()
	}
	if c.dirs == nil {
		c.dirs = make(map[string]*sys.Folder, dirCacheSize)
	}
	c.dirs[p] = d
	return d, nil
}

// make opens the directory at p, making what is missing. links counts the dangling links on the way.
func (c *dirCache) make(p string, links int) (*sys.Folder, error) {
	d, err := c.root.InRoot(p)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if links > 40 {
		return nil, sys.ErrLoop
	}
	dirName, base := path.Split(p)
	parent := c.root
	if dirName = path.Clean(dirName); dirName != "." && dirName != "/" {
		if parent, err = c.make(dirName, links); err != nil {
			return nil, err
		}
		defer parent.Close()
	}
	switch err := parent.Mkdir(base, 0o755); {
	case err == nil:
		*c.made++
		return newDir(parent, base)
	case !errors.Is(err, fs.ErrExist):
		return nil, err
	}
	// Something is there and leads nowhere: a symbolic link to what only a lower layer has, as
	// var/run -> /run. The target is made in this layer, where the link will find it.
	target, err := parent.Readlink(base)
	if err != nil {
		return nil, sys.ErrNotDir
	}
	if !path.IsAbs(target) {
		target = path.Join(dirName, target)
	}
	target = path.Clean("/" + target)[1:]
	if target == "" {
		return nil, sys.ErrLoop
	}
	t, err := c.make(target, links+1)
	if err != nil {
		return nil, err
	}
	t.Close()
	d, err = c.root.InRoot(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, kind.Errorf(ErrLayer, "its path goes through a link that leads nowhere")
	}
	return d, err
}

// newDir opens a directory just made and gives it the mode that the umask may have narrowed.
func newDir(parent *sys.Folder, base string) (*sys.Folder, error) {
	d, err := parent.Sub(base)
	if err != nil {
		return nil, err
	}
	if err := d.Chmod(0o755); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}
