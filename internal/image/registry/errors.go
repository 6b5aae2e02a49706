package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What a caller may want to tell apart; errors of a Client wrap them.
var (
	// ErrNotFound is what the registry does not have.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized is what the registry does not give to these credentials.
	ErrUnauthorized = errors.New("unauthorized")
	// ErrUnavailable is a registry that failed on every attempt.
	ErrUnavailable = errors.New("registry unavailable")
	// ErrCorrupt is an answer that is not what was promised.
	ErrCorrupt = errors.New("corrupt")
)

// permanent is an error that trying again will not cure.
func permanent(err error) bool {
	var te *transport.Error
	if errors.As(err, &te) {
		return !retryStatus(te.StatusCode)
	}
	var (
		plain *plainError
		dns   *net.DNSError
		cert  *tls.CertificateVerificationError
		ua    x509.UnknownAuthorityError
		local *localError
	)
	return errors.Is(err, ErrCorrupt) || errors.As(err, &local) ||
		errors.As(err, &plain) || errors.As(err, &cert) || errors.As(err, &ua) ||
		errors.As(err, &dns) && dns.IsNotFound
}

func retryStatus(code int) bool {
	return code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code >= 500
}

// localError is a failure on our side: of the writer that a blob goes to.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// explain makes one clear sentence of what went wrong with what.
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var local *localError
	if errors.As(err, &local) {
		return local.err
	}
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	var te *transport.Error
	if errors.As(err, &te) {
		return c.explainStatus(what, te)
	}
	var plain *plainError
	if errors.As(err, &plain) {
		return fmt.Errorf("%w: the registry %s does not answer over TLS, and %w", ErrUnavailable, c.Host(), plain)
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return fmt.Errorf("%w: the certificate of the registry %s is not trusted: %w; add its authority to this machine's certificates", ErrUnavailable, c.Host(), cert.Err)
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return fmt.Errorf("%w: the registry %s answers without TLS; name the host as a plain-HTTP registry if you trust the network", ErrUnavailable, c.Host())
	}
	return fmt.Errorf("%w: the registry %s can't be reached: %w; check the name, the network and the proxy", ErrUnavailable, c.Host(), err)
}

func (c *Client) explainStatus(what string, te *transport.Error) error {
	said := fmt.Sprintf("%d %s", te.StatusCode, http.StatusText(te.StatusCode))
	if len(te.Errors) > 0 {
		d := te.Errors[0]
		said = fmt.Sprintf("%d %s: %s", te.StatusCode, d.Code, printable(d.Message))
	}
	switch {
	case te.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: the registry %s has no %s (%s); check the name and the tag", ErrNotFound, c.Host(), what, said)
	case te.StatusCode == http.StatusUnauthorized, te.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: the registry %s does not give out %s (%s); it does not exist or it is private: check the name, or log in with an account that may read it",
			ErrUnauthorized, c.Host(), what, said)
	case te.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w: the registry %s limits the rate of requests (%s); wait a while, or log in for a higher limit", ErrUnavailable, c.Host(), said)
	}
	return fmt.Errorf("%w: the registry %s failed to deliver %s (%s); try again later", ErrUnavailable, c.Host(), what, said)
}

// printable shortens a registry's words and takes control characters out.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}
