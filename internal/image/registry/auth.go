package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// Auth are credentials for one registry, as CRI's AuthConfig has them. They are sent to the registry of
// the reference only, or where ServerAddress is given, to that host only.
type Auth struct {
	Username      string
	Password      string
	Auth          string // base64 of "username:password"
	ServerAddress string
	IdentityToken string
	RegistryToken string
}

// Credential tells with what a host is asked, without the secret.
type Credential struct {
	// Kind is "none", "password", "identity token" or "registry token".
	Kind string `json:"kind"`
	User string `json:"user,omitempty"`
	// Source is who brought it: "the pull" or "docker's configuration".
	Source string `json:"source,omitempty"`
}

// String is for a sentence.
func (c Credential) String() string {
	switch {
	case c.Kind == "none":
		return "without credentials"
	case c.User != "":
		return fmt.Sprintf("as the user %q with a %s from %s", printable(c.User), c.Kind, c.Source)
	}
	return fmt.Sprintf("with a %s from %s", c.Kind, c.Source)
}

// config reads the credentials; nil, nil where they are for another host than host. own says that host is
// the registry itself.
func (a *Auth) config(host string, own bool) (*authn.AuthConfig, error) {
	if a.ServerAddress == "" && !own || a.ServerAddress != "" && serverHost(a.ServerAddress) != serverHost(host) {
		return nil, nil
	}
	cfg := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if a.Auth != "" && a.Username == "" {
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		user, pass, ok := strings.Cut(strings.TrimRight(string(b), "\x00"), ":")
		if err != nil || !ok {
			return nil, errors.New(`the credentials are not the base64 form of "user:password"`)
		}
		cfg.Username, cfg.Password = user, pass
	}
	return &cfg, nil
}

// serverHost is the host of "https://index.docker.io/v1/" and of "docker.io" alike.
func serverHost(s string) string {
	_, rest, ok := strings.Cut(s, "://")
	if ok {
		s = rest
	}
	s, _, _ = strings.Cut(s, "/")
	switch s {
	case "docker.io", "registry-1.docker.io":
		return name.DefaultRegistry
	}
	return s
}

// credential finds what a peer is asked with.
func (p *peer) credential(ctx context.Context) (authn.Authenticator, Credential, error) {
	none := Credential{Kind: "none"}
	if a := p.c.o.Auth; a != nil {
		own := p.host.Server
		host := p.name()
		if own {
			host = p.c.Host() // the registry's server goes by the registry's name
		}
		cfg, err := a.config(host, own)
		if err != nil {
			return nil, none, err
		}
		if cfg != nil {
			return authn.FromConfig(*cfg), describeAuth(cfg, "the pull"), nil
		}
		if own {
			return authn.Anonymous, none, nil
		}
	}
	targets := []authn.Resource{p.repo}
	if p.host.Server {
		targets = append(targets, p.c.repo)
	}
	for _, t := range targets {
		auth, err := authn.Resolve(ctx, p.c.o.Keychain, t)
		if err != nil {
			return nil, none, fmt.Errorf("find the credentials of %s: %w", p.name(), err)
		}
		cfg, err := authn.Authorization(ctx, auth)
		if err != nil {
			return nil, none, fmt.Errorf("find the credentials of %s: %w", p.name(), err)
		}
		if d := describeAuth(cfg, "docker's configuration"); d.Kind != "none" {
			return auth, d, nil
		}
	}
	return authn.Anonymous, none, nil
}

func describeAuth(cfg *authn.AuthConfig, source string) Credential {
	c := Credential{User: cfg.Username, Source: source}
	switch {
	case cfg.RegistryToken != "":
		c.Kind = "registry token"
	case cfg.IdentityToken != "":
		c.Kind = "identity token"
	case cfg.Username != "" || cfg.Password != "" || cfg.Auth != "":
		c.Kind = "password"
	default:
		return Credential{Kind: "none"}
	}
	return c
}
