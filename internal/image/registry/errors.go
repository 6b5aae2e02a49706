package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/11f9778f/berth/internal/image/kind"
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
		return kind.Errorf(ErrUnavailable, "the registry %s does not answer over TLS, and %w", c.Host(), plain)
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return kind.Errorf(ErrUnavailable, "the certificate of the registry %s is not trusted: %w; add its authority to this machine's certificates", c.Host(), cert.Err)
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return kind.Errorf(ErrUnavailable, "the registry %s answers without TLS; name the host as a plain-HTTP registry if you trust the network", c.Host())
	}
	if errors.Is(err, errStalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return kind.Errorf(ErrUnavailable, "the connection to the registry %s broke again and again while it sent %s (%w); check the network, or try again later", c.Host(), what, err)
	}
	return kind.Errorf(ErrUnavailable, "the registry %s can't be reached: %w; check the name, the network and the proxy", c.Host(), err)
}

func (c *Client) explainStatus(what string, te *transport.Error) error {
	said := fmt.Sprintf("%d %s", te.StatusCode, http.StatusText(te.StatusCode))
	if len(te.Errors) > 0 {
		d := te.Errors[0]
		said = fmt.Sprintf("%d %s: %s", te.StatusCode, d.Code, printable(d.Message))
	}
	switch {
	case te.StatusCode == http.StatusNotFound:
		return kind.Errorf(ErrNotFound, "the registry %s has no %s (%s); check the name and the tag", c.Host(), what, said)
	case te.StatusCode == http.StatusUnauthorized, te.StatusCode == http.StatusForbidden:
		return kind.Errorf(ErrUnauthorized, "the registry %s does not give out %s (%s); it does not exist or it is private: check the name, or log in with an account that may read it", c.Host(), what, said)
	case te.StatusCode == http.StatusTooManyRequests:
		return kind.Errorf(ErrUnavailable, "the registry %s limits the rate of requests (%s); wait a while, or log in for a higher limit", c.Host(), said)
	}
	return kind.Errorf(ErrUnavailable, "the registry %s failed to deliver %s (%s); try again later", c.Host(), what, said)
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
