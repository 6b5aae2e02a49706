package registry

import (
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
	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/image/reference"
	"github.com/11f9778f/berth/internal/image/registry/hosts"
)

// Options are what a Client needs. All fields but Auth, PlainHTTP and Dirs are required.
type Options struct {
	// Auth are the credentials for the registry; nil asks the keychain.
	Auth *Auth
	// Keychain finds credentials of mirrors, and of the registry where there is no Auth.
	Keychain authn.Keychain
	// Pool is shared with other clients.
	Pool *Pool
	// PlainHTTP are the hosts ("host" or "host:port") that may be spoken to without TLS.
	PlainHTTP []string
	// Dirs are folders like containerd's certs.d (package hosts).
	Dirs  []string
	Retry Retry
}

// Retry is how failures are met; all fields are required.
type Retry struct {
	Attempts  int           // in a row, without a byte of progress
	Base, Max time.Duration // first and longest pause
	Stall     time.Duration // a connection that is silent for so long counts as broken
}

// Client reads from one repository of one registry. Its methods may be called at the same time.
type Client struct {
	ref   reference.Reference
	repo  name.Repository
	o     Options
	file  string   // what configures the registry's hosts, or ""
	notes []string // on that file
	peers []*peer  // in the order in which they are asked; the last is the registry itself

	mu      sync.Mutex
	senders map[digest.Digest][]*peer // who has sent bytes of a blob, in this order
}

// New makes a client for ref's repository. It reads the registry's configuration and does not talk yet.
func New(ref reference.Reference, o Options) (*Client, error) {
	c := &Client{ref: ref, o: o, senders: map[digest.Digest][]*peer{}}
	repo, err := name.NewRepository(ref.Repository())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	c.repo = repo
	found, err := hosts.Find(o.Dirs, ref.Domain())
	if err != nil {
		return nil, fmt.Errorf("the configuration of the registry %s: %w", ref.Domain(), err)
	}
	c.file, c.notes = found.File, found.Notes
	for i, h := range found.List {
		p, err := c.newPeer(h, i == len(found.List)-1)
		if err != nil {
			return nil, err
		}
		c.peers = append(c.peers, p)
	}
	return c, nil
}

// Host is the registry's name as the user knows it.
func (c *Client) Host() string { return c.ref.Domain() }

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
