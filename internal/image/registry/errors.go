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
	return errors.Is(err, ErrCorrupt) || errors.As(err, &local) || limited(err) ||
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

// unreachable is an error of making the connection.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// explain makes one clear sentence of what went wrong with what.
func (p *peer) explain(ctx context.Context, what string, err error) error {
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
		return p.explainStatus(what, te)
	}
	if limited(err) {
		return kind.Errorf(ErrUnavailable, "%s has limited the rate of requests, %w; wait, or log in for a higher limit", p.title(), err)
	}
	var plain *plainError
	if errors.As(err, &plain) {
		return kind.Errorf(ErrUnavailable, "%s does not answer over TLS, and %w", p.title(), plain)
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return kind.Errorf(ErrUnavailable, "the certificate of %s is not trusted: %w; add its authority to this machine's certificates, or as ca to its hosts.toml", p.title(), cert.Err)
	}
	if strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return kind.Errorf(ErrUnavailable, "%s answers without TLS; name the host as a plain-HTTP registry if you trust the network", p.title())
	}
	if errors.Is(err, errStalled) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return kind.Errorf(ErrUnavailable, "the connection to %s broke again and again while it sent %s (%w); check the network, or try again later", p.title(), what, err)
	}
	return kind.Errorf(ErrUnavailable, "%s can't be reached: %w; check the name, the network and the proxy", p.title(), err)
}

func (p *peer) explainStatus(what string, te *transport.Error) error {
	said := fmt.Sprintf("%d %s", te.StatusCode, http.StatusText(te.StatusCode))
	if len(te.Errors) > 0 {
		d := te.Errors[0]
		said = fmt.Sprintf("%d %s: %s", te.StatusCode, d.Code, printable(d.Message))
	}
	p.mu.Lock()
	said += ", asked " + p.cred.String()
	p.mu.Unlock()
	switch {
	case te.StatusCode == http.StatusNotFound:
		return kind.Errorf(ErrNotFound, "%s has no %s (%s); check the name and the tag", p.title(), what, said)
	case te.StatusCode == http.StatusUnauthorized, te.StatusCode == http.StatusForbidden:
		return kind.Errorf(ErrUnauthorized, "%s does not give out %s (%s); it does not exist or it is private: check the name, or log in with an account that may read it", p.title(), what, said)
	case te.StatusCode == http.StatusTooManyRequests:
		return kind.Errorf(ErrUnavailable, "%s limits the rate of requests (%s); wait a while, or log in for a higher limit", p.title(), said)
	}
	return kind.Errorf(ErrUnavailable, "%s failed to deliver %s (%s); try again later", p.title(), what, said)
}

// allFailed is one error for all hosts that were asked, of the last one's kind: that is the registry itself.
func (c *Client) allFailed(errs []error) error {
	switch len(errs) {
	case 0:
		return kind.Errorf(ErrUnavailable, "no host is configured to deliver it: give one the capability in %s", c.file)
	case 1:
		return errs[0]
	}
	last := errs[len(errs)-1]
	said := make([]string, len(errs))
	for i, err := range errs {
		said[i] = err.Error()
	}
	of := ErrUnavailable
	for _, k := range []error{ErrNotFound, ErrUnauthorized, ErrCorrupt} {
		if errors.Is(last, k) {
			of = k
		}
	}
	return kind.Errorf(of, "all %d hosts of %s failed: %s", len(errs), c.file, strings.Join(said, " -- "))
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
