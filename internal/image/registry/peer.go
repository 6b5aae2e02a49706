package registry

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/11f9778f/berth/internal/image/registry/hosts"
)

// peer is one host that is asked for the repository: the registry itself or a mirror.
type peer struct {
	c    *Client
	host hosts.Host
	repo name.Repository // the repository at this host
	last bool            // there is nobody to ask after it
	// failures are how often it may fail in a row without a byte of progress.
	failures int

	mu    sync.Mutex
	http  *http.Client // nil until the host was met
	auth  authn.Authenticator
	cred  Credential // what auth is
	limit *limit     // nil until the credential is known
	dead  error      // it can't be reached; it is not tried again
}

func (c *Client) newPeer(h hosts.Host, last bool) (*peer, error) {
	p := &peer{c: c, host: h, last: last, failures: c.o.Retry.Attempts}
	if !last {
		p.failures = min(p.failures, 2) // who can ask another does not wait for long
	}
	registry := c.ref.Domain()
	if h.URL.Host != "" {
		registry = h.URL.Host
	}
	var opts []name.Option
	if p.plainAllowed(registry) {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(registry+"/"+c.ref.Path(), opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", registry, err)
	}
	p.repo = repo
	return p, nil
}

// name is the host as the user knows it.
func (p *peer) name() string {
	if p.host.URL.Host == "" {
		return p.c.Host()
	}
	return p.host.URL.Host
}

// title is the host in a sentence.
func (p *peer) title() string {
	if p.host.Server {
		return "the registry " + p.name()
	}
	return "the mirror " + p.name()
}

// plainAllowed says whether host may be spoken to without TLS: where the user says so, or the file that
// the host comes from.
func (p *peer) plainAllowed(host string) bool {
	if p.host.URL.Host == host && p.host.URL.Scheme != "" {
		return p.host.URL.Scheme == "http"
	}
	return p.c.plainAllowed(host)
}

// meet finds credential and limit, once.
func (p *peer) meet(ctx context.Context) (*limit, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limit != nil {
		return p.limit, nil
	}
	auth, cred, err := p.credential(ctx)
	if err != nil {
		return nil, &localError{err}
	}
	p.auth, p.cred = auth, cred
	p.limit = p.c.o.Pool.limitOf(p.name() + "\x00" + cred.Kind + "\x00" + cred.User)
	return p.limit, nil
}

// connect meets the host: which scheme, which authentication. The first success is kept.
func (p *peer) connect(ctx context.Context) (*http.Client, error) {
	if _, err := p.meet(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.http != nil {
		return p.http, nil
	}
	rt, err := p.transport(ctx, transport.PullScope)
	if err != nil {
		return nil, err
	}
	p.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return p.http, nil
}

// transport authenticates what it sends, in the scope. The peer was met.
func (p *peer) transport(ctx context.Context, scope string) (http.RoundTripper, error) {
	routes, err := p.c.o.Pool.route(&p.host)
	if err != nil {
		return nil, &localError{err}
	}
	base := transport.NewUserAgent(&guard{p: p, routes: routes, limit: p.limit}, "berth")
	return transport.NewWithContext(ctx, p.repo.Registry, p.auth, base, []string{p.repo.Scope(scope)})
}

// guard is the last round tripper before the wire. It keeps requests off plain HTTP, and gives those to
// the peer the form that its configuration asks for.
type guard struct {
	p      *peer
	routes routes
	limit  *limit
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	p := g.p
	if req.URL.Host == p.repo.RegistryStr() || req.URL.Host == p.host.URL.Host {
		return g.toPeer(req)
	}
	if req.URL.Scheme != "https" && !p.plainAllowed(req.URL.Host) {
		return refuse(req)
	}
	return g.routes.other.RoundTrip(req)
}

func refuse(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	return nil, &plainError{req.URL.Host}
}

func (g *guard) toPeer(req *http.Request) (*http.Response, error) {
	p := g.p
	if h := p.host.URL; h.Host != "" {
		req = req.Clone(req.Context())
		req.URL.Scheme, req.URL.Host, req.Host = h.Scheme, h.Host, ""
		if rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"); ok && (rest == "" || strings.HasPrefix(rest, p.repo.RepositoryStr()+"/")) {
			req.URL.Path, req.URL.RawPath = h.Path+"/"+rest, ""
			if !p.host.Server && rest != "" {
				q := req.URL.Query()
				q.Set("ns", p.c.ref.Domain())
				req.URL.RawQuery = q.Encode()
			}
		}
		for k, v := range p.host.Header {
			req.Header[http.CanonicalHeaderKey(k)] = slices.Clone(v)
		}
	}
	if req.URL.Scheme != "https" && !p.plainAllowed(p.name()) {
		return refuse(req)
	}
	resp, err := g.routes.own.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		g.limit.renew(max(retryAfter(resp), p.c.o.Retry.Base))
	} else if err == nil && !g.limit.ends().IsZero() {
		g.limit.answered(nil)
	}
	return resp, err
}
