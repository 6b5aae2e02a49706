package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/image/registry/hosts"
)

// Pool is what all clients of a process share: connections, and what hosts have said about their rate.
// Its methods may be called at the same time.
type Pool struct {
	base http.RoundTripper

	mu     sync.Mutex
	routes map[string]routes
	limits map[string]*limit
}

// NewPool makes a pool above a transport.
func NewPool(base http.RoundTripper) *Pool {
	return &Pool{base: base, routes: map[string]routes{}, limits: map[string]*limit{}}
}

// routes are the transports to a host, and to the others that it leads to.
type routes struct{ own, other http.RoundTripper }

// maxRoutes bounds what is kept for configurations that have changed.
const maxRoutes = 256

// route returns the transports for a host's TLS settings: the same for the same files.
func (p *Pool) route(h *hosts.Host) (routes, error) {
	base, ok := p.base.(*http.Transport)
	if !h.Own() || !ok {
		return routes{p.base, p.base}, nil
	}
	key := routeKey(h)
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.routes[key]; ok {
		return r, nil
	}
	own, trusted, err := h.TLS()
	if err != nil {
		return routes{}, err
	}
	o, t := base.Clone(), base.Clone()
	o.TLSClientConfig, t.TLSClientConfig = own, trusted
	if h.DialTimeout > 0 {
		o.DialContext = (&net.Dialer{Timeout: h.DialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if len(p.routes) >= maxRoutes {
		for k, r := range p.routes {
			r.close()
			delete(p.routes, k)
		}
	}
	r := routes{o, t}
	p.routes[key] = r
	return r, nil
}

func (r routes) close() {
	for _, rt := range []http.RoundTripper{r.own, r.other} {
		if t, ok := rt.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// routeKey tells settings apart, also by when their files were changed.
func routeKey(h *hosts.Host) string {
	var b strings.Builder
	fmt.Fprint(&b, h.URL.Host, h.SkipVerify, h.DialTimeout)
	files := h.CAs
	for _, p := range h.Pairs {
		files = append(files[:len(files):len(files)], p[0], p[1])
	}
	for _, f := range files {
		if fi, err := os.Stat(f); err == nil {
			fmt.Fprint(&b, "\x00", f, fi.ModTime().UnixNano(), fi.Size())
		}
	}
	return b.String()
}

// Close closes the connections that nobody uses.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	routes{own: p.base}.close()
	for _, r := range p.routes {
		r.close()
	}
}

// limit is what a host has said about the rate of requests. While it lasts nobody asks; when it is over
// one request finds out whether it is, and the others wait for its answer.
type limit struct {
	mu    sync.Mutex
	until time.Time     // zero: no limit
	probe chan struct{} // closed when the request that finds out has its answer; nil where none is under way
}

// limitOf returns the limit of a host for a user.
func (p *Pool) limitOf(key string) *limit {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.limits[key]
	if l == nil {
		l = &limit{}
		p.limits[key] = l
	}
	return l
}

// limitedError is a limit that lasts longer than anybody waits.
type limitedError struct{ until time.Time }

func (e *limitedError) Error() string {
	return "it wants no requests before " + e.until.Format(time.TimeOnly)
}

// pass waits until a request may be sent, but not longer than patience. The caller must call the function
// that it returns when the answer is here.
func (l *limit) pass(ctx context.Context, patience time.Duration) (func(), error) {
	for {
		l.mu.Lock()
		wait := time.Until(l.until)
		if l.until.IsZero() {
			l.mu.Unlock()
			return func() {}, nil
		}
		if wait > patience {
			defer l.mu.Unlock()
			return nil, &limitedError{l.until}
		}
		if wait <= 0 && l.probe == nil {
			mine := make(chan struct{})
			l.probe = mine
			l.mu.Unlock()
			return func() { l.answered(mine) }, nil
		}
		probe := l.probe
		l.mu.Unlock()
		if wait > 0 {
			probe = nil
		}
		var timer <-chan time.Time
		if probe == nil {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-probe:
		case <-timer:
		}
	}
}

// answered ends the limit unless it was renewed meanwhile, and lets those go on who wait for the probe.
// Called by the probe's sender, and as soon as any answer is here that says nothing of a limit.
func (l *limit) answered(probe chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if probe != nil && l.probe != probe {
		return // it had its answer before
	}
	if !l.until.After(time.Now()) {
		l.until = time.Time{}
	}
	if l.probe != nil {
		close(l.probe)
		l.probe = nil
	}
}

// renew begins a limit, or prolongs it.
func (l *limit) renew(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until := time.Now().Add(d); until.After(l.until) {
		l.until = until
	}
}

// ends is when the limit ends, or zero.
func (l *limit) ends() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

func limited(err error) bool {
	var l *limitedError
	return errors.As(err, &l)
}
