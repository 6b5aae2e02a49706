package netns

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"

	"github.com/11f9778f/berth/internal/trace"
)

var ownerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// CheckID refuses an owner's id that is not a plain file name.
func CheckID(id string) error {
	if !ownerID.MatchString(id) {
		return fmt.Errorf("sandbox id %q: want at most 128 letters, digits, dots, dashes", id)
	}
	return nil
}

// Keeper works on the namespaces of a Dir, one call at a time for each id. Its methods may be called from
// several goroutines.
type Keeper struct {
	Pins Dir

	mu    sync.Mutex
	locks map[string]*lock
}

// CreateNetNS makes a network namespace for sandbox id, with lo up and the net.* sysctls set, and pins it.
// It returns the pin's path. A namespace that is there already is returned as it is.
func (k *Keeper) CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (string, error) {
	return k.pin(ctx, id, func() (string, error) { return k.Pins.Create(id, sysctls) })
}

// AdoptNetNS is CreateNetNS for a namespace that is there already, at the path from: one that belongs to a
// user namespace, say.
func (k *Keeper) AdoptNetNS(ctx context.Context, id, from string) (string, error) {
	return k.pin(ctx, id, func() (string, error) { return k.Pins.Adopt(id, from) })
}

// UseNetNS is CreateNetNS with a namespace that Spare has made. used is false where another one is pinned already.
func (k *Keeper) UseNetNS(ctx context.Context, id string, ns *os.File, sysctls map[string]string) (path string, used bool, err error) {
	path, err = k.pin(ctx, id, func() (path string, err error) {
		path, used, err = k.Pins.Use(id, ns, sysctls)
		return path, err
	})
	return path, used, err
}

func (k *Keeper) pin(ctx context.Context, id string, pin func() (string, error)) (string, error) {
	defer trace.Start(ctx, "network.netns")()
	unlock, err := k.Lock(ctx, id)
	if err != nil {
		return "", fmt.Errorf("create network namespace of %s: %w", id, err)
	}
	defer unlock()
	path, err := pin()
	if err != nil {
		return "", fmt.Errorf("create network namespace of %s: %w", id, err)
	}
	return path, nil
}

// RemoveNetNS removes the pin of id's namespace; a missing one is success. With the last process in it
// gone, the kernel then removes the namespace and its links, some milliseconds later.
func (k *Keeper) RemoveNetNS(ctx context.Context, id string) error {
	defer trace.Start(ctx, "network.netns.remove")()
	unlock, err := k.Lock(ctx, id)
	if err != nil {
		return fmt.Errorf("remove network namespace of %s: %w", id, err)
	}
	defer unlock()
	if err := k.Pins.Remove(id); err != nil {
		return fmt.Errorf("remove network namespace of %s: %w", id, err)
	}
	return nil
}

// lock is that of one id in use.
type lock struct {
	token chan struct{} // holds one token while the lock is free
	users int
}

// Lock waits until no other call for id is under way, or for the context's end. It refuses an id that CheckID
// does not like.
func (k *Keeper) Lock(ctx context.Context, id string) (unlock func(), err error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*lock{}
	}
	l := k.locks[id]
	if l == nil {
		l = &lock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		k.locks[id] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		if l.users--; l.users == 0 {
			delete(k.locks, id)
		}
		k.mu.Unlock()
	}
	select {
	case <-l.token:
		return func() { l.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

// IfDead runs f under the lock of id, unless it is alive, and reports whether f has done its work.
func (k *Keeper) IfDead(ctx context.Context, id string, live func(string) bool, f func() error) (bool, error) {
	unlock, err := k.Lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer unlock()
	if live(id) {
		return false, nil
	}
	if err := f(); err != nil {
		return false, fmt.Errorf("remove what is left of %s: %w", id, err)
	}
	return true, nil
}
