package streaming

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxWaiting bounds the URLs that wait for their clients.
const maxWaiting = 1000

// tokens are the sessions that wait for their clients.
type tokens struct {
	life time.Duration

	mu      sync.Mutex
	waiting map[string]session // by kind/token
	closed  bool
}

type session struct {
	serve   http.HandlerFunc
	expires time.Time
}

func newTokens(life time.Duration) *tokens {
	return &tokens{life: life, waiting: map[string]session{}}
}

func (t *tokens) put(kind string, h http.HandlerFunc) (string, error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, s := range t.waiting {
		if now.After(s.expires) {
			delete(t.waiting, k)
		}
	}
	if t.closed {
		return "", status.Error(codes.Unavailable, "the streaming server has ended")
	}
	if len(t.waiting) >= maxWaiting {
		return "", status.Errorf(codes.ResourceExhausted, "%d streams wait for their clients already: try again later", maxWaiting)
	}
	token := rand.Text()
	t.waiting[kind+"/"+token] = session{serve: h, expires: now.Add(t.life)}
	return token, nil
}

// take returns what waits under the token, once, or nil.
func (t *tokens) take(kind, token string) http.HandlerFunc {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := kind + "/" + token
	s, ok := t.waiting[key]
	delete(t.waiting, key)
	if !ok || time.Now().After(s.expires) {
		return nil
	}
	return s.serve
}

func (t *tokens) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	clear(t.waiting)
}
