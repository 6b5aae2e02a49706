package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

func lockPath(run string) string { return filepath.Join(run, "node.lock") }

// Verb is the verb that a node is run by; it stands in the lock of its run directory.
type Verb string

const (
	VerbNode Verb = "node" // with Berth's kubelet
	VerbCRI  Verb = "cri"  // for somebody else's kubelet
)

func (c Config) verb() Verb {
	if c.CRIOnly {
		return VerbCRI
	}
	return VerbNode
}

// Died tells which verb's node was in the run directory and ended without cleaning up, so that pods of
// it may still run: its lock file is there and nobody holds it. "" if there is none.
func Died(run string) Verb {
	h, held := lockState(run)
	if held {
		return ""
	}
	return h.verb
}

// Lives tells whether a node has the run directory; it may not answer yet.
func Lives(run string) bool {
	_, held := lockState(run)
	return held
}

// Holder is the process of the node that has the run directory, 0 if none has it.
func Holder(run string) (pid int) {
	h, held := lockState(run)
	if !held {
		return 0
	}
	return h.pid
}

// holder is what a lock file says: who holds it or held it last.
type holder struct {
	verb Verb
	pid  int
}

func (h holder) String() string { return fmt.Sprintf("berth %s, process %d", h.verb, h.pid) }

func lockState(run string) (h holder, held bool) {
	if _, err := os.Stat(lockPath(run)); errors.Is(err, fs.ErrNotExist) {
		return h, false
	}
	f, err := sys.LockFile(lockPath(run))
	if err == nil {
		defer f.Close()
	}
	return readHolder(run), errors.Is(err, sys.ErrLocked)
}

// readHolder reads the lock file. One that says nothing is of a node that died as it began.
func readHolder(run string) holder {
	h := holder{verb: VerbNode}
	f, err := os.Open(lockPath(run))
	if err != nil {
		return h
	}
	defer f.Close()
	fmt.Fscanf(io.LimitReader(f, 100), "%s %d", &h.verb, &h.pid)
	return h
}

// lockRun takes the run directory's lock and writes into it whose it is. It tries for a moment: whoever
// asks whether a node died (Died) holds the lock for an instant, and a node that is ending lets go of
// it last.
func lockRun(run string, verb Verb) (*os.File, error) {
	for tries := 0; ; tries++ {
		lock, err := sys.LockFile(lockPath(run))
		if errors.Is(err, sys.ErrLocked) && tries < 20 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		if err = lock.Truncate(0); err == nil {
			_, err = fmt.Fprintf(lock, "%s %d\n", verb, os.Getpid())
		}
		if err != nil {
			lock.Close()
			return nil, fmt.Errorf("write %s: %w", lock.Name(), err)
		}
		return lock, nil
	}
}
