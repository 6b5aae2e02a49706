package registry

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Plan is what a pull would do, found out without talking to anybody.
type Plan struct {
	// File configures the registry's hosts; "" where nothing does.
	File string `json:"file,omitempty"`
	// Notes are remarks on that file.
	Notes []string `json:"notes,omitempty"`
	// Hosts are asked in this order, until one delivers.
	Hosts []PlannedHost `json:"hosts"`
}

// PlannedHost is one host that would be asked.
type PlannedHost struct {
	// URL is that of the manifest. Where both schemes are possible it is "https" and Scheme says so.
	URL    string `json:"url"`
	Mirror bool   `json:"mirror"`
	// Capabilities are some of "pull", "resolve", "push".
	Capabilities []string `json:"capabilities"`
	// Asked says that the host is asked for the manifest; without the capability it is passed over.
	Asked      bool       `json:"asked"`
	Credential Credential `json:"credential"`
	// TLS is a sentence on how the host's certificate is checked, and what is shown to it.
	TLS string `json:"tls"`
	// Headers are the names of what is sent besides.
	Headers []string `json:"headers,omitempty"`
	// Proxy is the proxy's URL, without a password.
	Proxy string `json:"proxy,omitempty"`
	// LimitedUntil is when the host wants to hear from us again.
	LimitedUntil *time.Time `json:"limitedUntil,omitempty"`
	// Error is what stands in the way already: a certificate that can't be read, a helper that fails.
	Error string `json:"error,omitempty"`
}

// Plan says what Manifest and Blob would do.
func (c *Client) Plan(ctx context.Context) Plan {
	plan := Plan{File: c.file, Notes: c.notes, Hosts: []PlannedHost{}}
	for _, p := range c.peers {
		plan.Hosts = append(plan.Hosts, p.plan(ctx))
	}
	return plan
}

func (p *peer) plan(ctx context.Context) PlannedHost {
	h := p.host
	scheme, root := "https", "/v2"
	if h.URL.Host != "" {
		scheme, root = h.URL.Scheme, h.URL.Path
	}
	host := h.URL.Host
	if host == "" {
		host = p.repo.RegistryStr()
	}
	out := PlannedHost{
		URL:    scheme + "://" + host + root + "/" + p.repo.RepositoryStr() + "/manifests/" + p.c.ref.Identifier(),
		Mirror: !h.Server, Capabilities: []string{}, Headers: slices.Sorted(maps.Keys(h.Header)),
		Asked: h.Pull && (h.Resolve || p.c.ref.Digest() != ""),
	}
	if out.Mirror {
		out.URL += "?ns=" + p.c.ref.Domain()
	}
	for _, c := range []struct {
		can  bool
		name string
	}{{h.Pull, "pull"}, {h.Resolve, "resolve"}, {h.Push, "push"}} {
		if c.can {
			out.Capabilities = append(out.Capabilities, c.name)
		}
	}
	out.TLS = p.tls()
	limit, err := p.meet(ctx)
	if err == nil {
		_, err = p.c.o.Pool.route(&p.host)
	}
	if err != nil {
		out.Error = err.Error()
	}
	p.mu.Lock()
	out.Credential = p.cred
	p.mu.Unlock()
	if limit != nil {
		if until := limit.ends(); until.After(time.Now()) {
			out.LimitedUntil = &until
		}
	}
	out.Proxy = p.proxy(out.URL)
	return out
}

// tls is a sentence on how the host is trusted.
func (p *peer) tls() string {
	h := p.host
	if h.URL.Scheme == "http" {
		return "none: " + p.c.file + " says http"
	}
	var s []string
	switch {
	case h.SkipVerify:
		s = append(s, "any certificate is taken (skip_verify)")
	case len(h.CAs) > 0:
		s = append(s, "trusted by the system's authorities and by "+strings.Join(h.CAs, ", "))
	default:
		s = append(s, "trusted by the system's authorities")
	}
	for _, pair := range h.Pairs {
		s = append(s, "shows "+pair[0])
	}
	if h.URL.Host == "" && p.plainAllowed(p.name()) {
		s = append(s, "or none: plain HTTP is allowed if it does not speak TLS")
	}
	return strings.Join(s, "; ")
}

func (p *peer) proxy(url string) string {
	t, ok := p.c.o.Pool.base.(*http.Transport)
	if !ok || t.Proxy == nil {
		return ""
	}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return ""
	}
	u, err := t.Proxy(req)
	if err != nil || u == nil {
		return ""
	}
	return u.Redacted()
}
