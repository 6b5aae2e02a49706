package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/kind"
)

// MaxManifest bounds manifests, indexes and configurations: 4 MiB, what registries take.
const MaxManifest = 4 << 20

// Manifest is a manifest or index as the registry sent it.
type Manifest struct {
	MediaType string // without parameters
	Digest    digest.Digest
	Bytes     []byte
}

// Manifest fetches the manifest or index with a tag or digest; accept are the media types wanted.
func (c *Client) Manifest(ctx context.Context, identifier string, accept []string) (Manifest, error) {
	want, err := digest.Parse(identifier)
	what, able := c.ref.Path()+"@"+identifier, func(p *peer) bool { return p.host.Pull }
	if err != nil { // a tag
		want, what, able = "", c.ref.Path()+":"+identifier, func(p *peer) bool { return p.host.Resolve && p.host.Pull }
	}
	var m Manifest
	err = c.each(ctx, what, able, func(p *peer) error {
		var err error
		m, err = p.manifest(ctx, identifier, what, accept)
		if err != nil || want == "" {
			return err
		}
		if got := want.Algorithm().FromBytes(m.Bytes); got != want {
			return kind.Errorf(ErrCorrupt, "%s sent another manifest than %s (it is %s); do not trust it", p.title(), what, got)
		}
		return nil
	})
	if err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// each asks one peer after the other until one of them has delivered.
func (c *Client) each(ctx context.Context, what string, able func(*peer) bool, ask func(*peer) error) error {
	var errs []error
	for _, p := range c.peers {
		if !able(p) {
			continue
		}
		err := p.gone()
		if err == nil {
			err = ask(p)
		}
		if err == nil {
			return nil
		}
		var local *localError
		if ctx.Err() != nil || errors.As(err, &local) {
			return p.explain(ctx, what, err)
		}
		errs = append(errs, p.explain(ctx, what, err))
	}
	return c.allFailed(errs)
}

func (p *peer) manifest(ctx context.Context, identifier, what string, accept []string) (Manifest, error) {
	var m Manifest
	err := p.retry(ctx, func(ctx context.Context, alive func()) (bool, error) {
		header := http.Header{"Accept": {strings.Join(accept, ", ")}}
		resp, err := p.get(ctx, "manifests", identifier, header)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		if err := transport.CheckError(resp, http.StatusOK); err != nil {
			return false, after(resp, err)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
		if err != nil {
			return false, err
		}
		if len(b) > MaxManifest {
			return false, kind.Errorf(ErrCorrupt, "the manifest of %s is larger than %d bytes", what, MaxManifest)
		}
		media, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		m = Manifest{MediaType: strings.TrimSpace(media), Bytes: b, Digest: digest.FromBytes(b)}
		return false, nil
	})
	return m, err
}

// Bytes fetches a small blob whole and checks its digest.
func (c *Client) Bytes(ctx context.Context, desc ispec.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > MaxManifest {
		return nil, kind.Errorf(ErrCorrupt, "the blob %s of %s has %d bytes, at most %d are expected", desc.Digest, c.ref, desc.Size, MaxManifest)
	}
	for {
		var buf bytes.Buffer
		if err := c.Blob(ctx, desc, &buf); err != nil {
			return nil, err
		}
		got := desc.Digest.Algorithm().FromBytes(buf.Bytes())
		if got == desc.Digest {
			return buf.Bytes(), nil
		}
		if again, err := c.Distrust(desc, got); !again {
			return nil, err
		}
	}
}

// Blob writes a blob of exactly desc.Size bytes to w, which may come from several hosts. Its digest is
// not checked here: Distrust says what to do when it is wrong. An error of w is returned as it is.
func (c *Client) Blob(ctx context.Context, desc ispec.Descriptor, w io.Writer) error {
	var done int64
	var senders []*peer
	defer func() { c.note(desc.Digest, senders) }()
	what := "blob " + desc.Digest.String() + " of " + c.ref.Path()
	return c.each(ctx, what, func(p *peer) bool { return p.host.Pull }, func(p *peer) error {
		return p.retry(ctx, func(ctx context.Context, alive func()) (bool, error) {
			n, err := p.blobFrom(ctx, desc, done, w, alive)
			done += n
			if n > 0 && !slices.Contains(senders, p) {
				senders = append(senders, p)
			}
			return n > 0, err
		})
	})
}

// blobFrom is one attempt at the bytes from offset on; it returns how many it wrote.
func (p *peer) blobFrom(ctx context.Context, desc ispec.Descriptor, offset int64, w io.Writer, alive func()) (int64, error) {
	header := http.Header{}
	if offset > 0 {
		if offset == desc.Size {
			return 0, nil
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.get(ctx, "blobs", desc.Digest.String(), header)
	if err == nil && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 { // it knows no ranges
		resp.Body.Close()
		resp, err = p.get(ctx, "blobs", desc.Digest.String(), http.Header{})
	}
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		return 0, after(resp, err)
	}
	skip := offset
	if resp.StatusCode == http.StatusPartialContent {
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return 0, kind.Errorf(ErrCorrupt, "%s answered a request for the bytes from %d with %q", p.title(), offset, printable(resp.Header.Get("Content-Range")))
		}
		skip = 0
	}
	if total := resp.ContentLength; total >= 0 && total+offset-skip > desc.Size {
		return 0, p.tooLong(desc)
	}
	body := &aliveReader{resp.Body, alive}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		return 0, unexpected(err)
	}
	return p.copy(w, body, desc, desc.Size-offset)
}

// copy writes exactly left bytes of body to w.
func (p *peer) copy(w io.Writer, body io.Reader, desc ispec.Descriptor, left int64) (int64, error) {
	buf := make([]byte, 128<<10)
	var done int64
	for {
		n, err := body.Read(buf)
		if int64(n) > left-done {
			return done, p.tooLong(desc)
		}
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return done, &localError{werr}
			}
			done += int64(n)
		}
		if err == io.EOF && done == left {
			return done, nil
		}
		if err != nil {
			return done, unexpected(err)
		}
	}
}

func (p *peer) tooLong(desc ispec.Descriptor) error {
	return kind.Errorf(ErrCorrupt, "%s sent more bytes for %s than the %d of its manifest; do not trust it", p.title(), desc.Digest, desc.Size)
}

// unexpected makes an end of the body the error that it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (p *peer) get(ctx context.Context, kind, id string, header http.Header) (*http.Response, error) {
	client, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The transport replaces the scheme by the one that the host was met with.
	url := fmt.Sprintf("%s://%s/v2/%s/%s/%s", p.repo.Scheme(), p.repo.RegistryStr(), p.repo.RepositoryStr(), kind, id)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	return client.Do(req)
}

// aliveReader reports each read that brought something.
type aliveReader struct {
	r     io.Reader
	alive func()
}

// Read implements io.Reader.
func (a *aliveReader) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if n > 0 {
		a.alive()
	}
	return n, err
}

var errStalled = errors.New("the connection was silent for too long")

// retry calls f until it succeeds, fails for good, or has failed too often in a row without progress.
// f gets a context that ends when the connection is silent for too long; it calls alive when it is not.
func (p *peer) retry(ctx context.Context, f func(ctx context.Context, alive func()) (progress bool, err error)) error {
	for failures := 1; ; failures++ {
		progress, err := p.attempt(ctx, f)
		if err == nil || ctx.Err() != nil || permanent(err) {
			return err
		}
		if progress {
			failures = 1
		}
		if !p.last && unreachable(err) {
			p.bury(err)
			return err
		}
		if failures >= p.failures {
			return err
		}
		if isLimit(err) {
			continue // attempt knows when
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(p.pause(failures, err)):
		}
	}
}

func isLimit(err error) bool {
	var te *transport.Error
	return errors.As(err, &te) && te.StatusCode == http.StatusTooManyRequests
}

func (p *peer) attempt(ctx context.Context, f func(context.Context, func()) (bool, error)) (bool, error) {
	l, err := p.meet(ctx)
	if err != nil {
		return false, err
	}
	answered, err := l.pass(ctx, p.c.o.Retry.Max)
	if err != nil {
		return false, err
	}
	defer answered()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(p.c.o.Retry.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	progress, err := f(ctx, func() { watch.Reset(p.c.o.Retry.Stall) })
	if err != nil && context.Cause(ctx) == errStalled {
		err = errStalled
	}
	return progress, err
}

// bury remembers that the host can't be reached, for the life of the client.
func (p *peer) bury(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = err
}

func (p *peer) gone() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// pause doubles with each failure, with jitter so that many nodes don't come back in step; a
// host's own wish counts more.
func (p *peer) pause(failures int, err error) time.Duration {
	r := p.c.o.Retry
	d := min(r.Base<<min(failures-1, 16), r.Max)
	d = d/2 + rand.N(d/2+1)
	var a *afterError
	if errors.As(err, &a) {
		d = max(d, min(a.wait, r.Max))
	}
	return d
}

// afterError is an answer with a Retry-After.
type afterError struct {
	error
	wait time.Duration
}

func (e *afterError) Unwrap() error { return e.error }

func after(resp *http.Response, err error) error {
	if d := retryAfter(resp); d > 0 {
		return &afterError{err, d}
	}
	return err
}

// retryAfter is what a host asks for by Retry-After, seconds or a date (RFC 9110, 10.2.3); 0 where it does not.
func retryAfter(resp *http.Response) time.Duration {
	const longest = 24 * time.Hour
	h := resp.Header.Get("Retry-After")
	if s, err := strconv.Atoi(h); err == nil {
		return time.Duration(min(max(s, 0), int(longest/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(h); err == nil {
		return min(max(time.Until(t), 0), longest)
	}
	return 0
}
