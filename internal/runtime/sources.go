package runtime

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// sourcePatience is how long a mount's source may take to answer.
const sourcePatience = 5 * time.Second

// sources finds the folders and files that containers mount. On a network file system whose server is gone
// such a look never ends and can't be interrupted: it is left alone after a while, and whoever asks for the
// same path meanwhile waits for the same look, so that retries cost no thread each.
type sources struct {
	mu      sync.Mutex
	looking map[string]*look
}

type look struct {
	done chan struct{}
	real string
	err  error
}

// find is hostPath with an end.
func (s *sources) find(path string) (string, error) {
	s.mu.Lock()
	l := s.looking[path]
	if l == nil {
		l = &look{done: make(chan struct{})}
		if s.looking == nil {
			s.looking = map[string]*look{}
		}
		s.looking[path] = l
		go func() {
			l.real, l.err = hostPath(path)
			s.mu.Lock()
			delete(s.looking, path)
			s.mu.Unlock()
			close(l.done)
		}()
	}
	s.mu.Unlock()
	timer := time.NewTimer(sourcePatience)
	defer timer.Stop()
	select {
	case <-l.done:
		return l.real, l.err
	case <-timer.C:
		return "", fmt.Errorf("mount source %s has not answered for %s, as on a file system whose server is gone: %w", path, sourcePatience, errdefs.ErrUnavailable)
	}
}
