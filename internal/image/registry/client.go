package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/11f9778f/berth/internal/image/reference"
)

// Options are what a Client needs. All fields but PlainHTTP are required.
type Options struct {
	// Keychain finds the credentials of the registry.
	Keychain authn.Keychain
	// Transport is the HTTP transport below everything.
	Transport http.RoundTripper
	// PlainHTTP are the hosts ("host" or "host:port") that may be spoken to without TLS.
	PlainHTTP []string
	Retry     Retry
}

// Retry is how failures are met; all fields are required.
type Retry struct {
	Attempts  int           // in a row, without a byte of progress
	Base, Max time.Duration // first and longest pause
	Stall     time.Duration // a connection that is silent for so long counts as broken
}

// Client reads from one repository of one registry. Its methods may be called at the same time.
type Client struct {
	ref  reference.Reference
	repo name.Repository
	o    Options

	mu   sync.Mutex
	http *http.Client // nil until the registry was met
}

// New makes a client for ref's repository. It does not talk yet.
func New(ref reference.Reference, o Options) (*Client, error) {
	c := &Client{ref: ref, o: o}
	var opts []name.Option
	if c.plainAllowed(ref.Domain()) {
		opts = append(opts, name.Insecure)
	}
	repo, err := name.NewRepository(ref.Repository(), opts...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	c.repo = repo
	return c, nil
}

// Host is the registry's name as the user knows it.
func (c *Client) Host() string { return c.ref.Domain() }

// connect meets the registry: which scheme, which authentication. The first success is kept.
func (c *Client) connect(ctx context.Context) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, nil
	}
	auth, err := authn.Resolve(ctx, c.o.Keychain, c.repo)
	if err != nil {
		return nil, fmt.Errorf("find the credentials of %s: %w", c.Host(), err)
	}
	base := transport.NewUserAgent(&guard{inner: c.o.Transport, allowed: c.plainAllowed}, "berth")
	rt, err := transport.NewWithContext(ctx, c.repo.Registry, auth, base, []string{c.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	return c.http, nil
}

// plainAllowed says whether host may be spoken to without TLS.
func (c *Client) plainAllowed(host string) bool {
	name := hostname(host)
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if ip, err := netip.ParseAddr(name); err == nil && ip.IsLoopback() {
		return true
	}
	return slices.Contains(c.o.PlainHTTP, host) || slices.Contains(c.o.PlainHTTP, name)
}

// hostname is host without port and brackets.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// guard is the last round tripper before the wire.
type guard struct {
	inner   http.RoundTripper
	allowed func(host string) bool
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.allowed(req.URL.Host) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &plainError{req.URL.Host}
	}
	return g.inner.RoundTrip(req)
}

type plainError struct{ host string }

func (e *plainError) Error() string {
	return fmt.Sprintf("plain HTTP to %s is not allowed; serve it with TLS, or name the host as a plain-HTTP registry", e.host)
}

// checkRedirect keeps a registry from pointing us at this machine's or its network's own services, as
// the metadata service of a cloud, unless the registry is such a neighbour itself.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return fmt.Errorf("stopped after 10 redirects")
	}
	from, to := via[0].URL.Hostname(), req.URL.Hostname()
	if from != to && isNeighbour(to) && !isNeighbour(from) {
		return fmt.Errorf("the redirect from %s to the local address %s is refused", from, to)
	}
	return nil
}

func isNeighbour(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}
