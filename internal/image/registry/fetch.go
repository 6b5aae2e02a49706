package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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
	what := c.ref.Path() + ":" + identifier
	want, err := digest.Parse(identifier)
	if err == nil {
		what = c.ref.Path() + "@" + identifier
	} else {
		want = "" // a tag
	}
	var m Manifest
	err = c.retry(ctx, func(ctx context.Context, alive func()) (bool, error) {
		header := http.Header{"Accept": {strings.Join(accept, ", ")}}
		resp, err := c.get(ctx, "manifests", identifier, header)
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
	if err != nil {
		return Manifest{}, c.explain(ctx, what, err)
	}
	if want != "" {
		if got := want.Algorithm().FromBytes(m.Bytes); got != want {
			return Manifest{}, kind.Errorf(ErrCorrupt, "the registry %s sent another manifest than %s (it is %s); do not trust it", c.Host(), what, got)
		}
	}
	return m, nil
}

// Bytes fetches a small blob whole and checks its digest.
func (c *Client) Bytes(ctx context.Context, desc ispec.Descriptor) ([]byte, error) {
	if desc.Size < 0 || desc.Size > MaxManifest {
		return nil, kind.Errorf(ErrCorrupt, "the blob %s of %s has %d bytes, at most %d are expected", desc.Digest, c.ref, desc.Size, MaxManifest)
	}
	var buf bytes.Buffer
	if err := c.Blob(ctx, desc, &buf); err != nil {
		return nil, err
	}
	if got := desc.Digest.Algorithm().FromBytes(buf.Bytes()); got != desc.Digest {
		return nil, kind.Errorf(ErrCorrupt, "the registry %s sent another blob than %s (it is %s); do not trust it", c.Host(), desc.Digest, got)
	}
	return buf.Bytes(), nil
}

// Blob writes a blob of exactly desc.Size bytes to w. Its digest is not checked here. An error of w is
// returned as it is.
func (c *Client) Blob(ctx context.Context, desc ispec.Descriptor, w io.Writer) error {
	var done int64
	err := c.retry(ctx, func(ctx context.Context, alive func()) (bool, error) {
		n, err := c.blobFrom(ctx, desc, done, w, alive)
		done += n
		return n > 0, err
	})
	if err != nil {
		return c.explain(ctx, "blob "+desc.Digest.String()+" of "+c.ref.Path(), err)
	}
	return nil
}

// blobFrom is one attempt at the bytes from offset on; it returns how many it wrote.
func (c *Client) blobFrom(ctx context.Context, desc ispec.Descriptor, offset int64, w io.Writer, alive func()) (int64, error) {
	header := http.Header{}
	if offset > 0 {
		if offset == desc.Size {
			return 0, nil
		}
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := c.get(ctx, "blobs", desc.Digest.String(), header)
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
			return 0, kind.Errorf(ErrCorrupt, "the registry %s answered a request for the bytes from %d with %q", c.Host(), offset, printable(resp.Header.Get("Content-Range")))
		}
		skip = 0
	}
	if total := resp.ContentLength; total >= 0 && total+offset-skip > desc.Size {
		return 0, c.tooLong(desc)
	}
	body := &aliveReader{resp.Body, alive}
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		return 0, unexpected(err)
	}
	return c.copy(w, body, desc, desc.Size-offset)
}

// copy writes exactly left bytes of body to w.
func (c *Client) copy(w io.Writer, body io.Reader, desc ispec.Descriptor, left int64) (int64, error) {
	buf := make([]byte, 128<<10)
	var done int64
	for {
		n, err := body.Read(buf)
		if int64(n) > left-done {
			return done, c.tooLong(desc)
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

func (c *Client) tooLong(desc ispec.Descriptor) error {
	return kind.Errorf(ErrCorrupt, "the registry %s sent more bytes for %s than the %d of its manifest; do not trust it", c.Host(), desc.Digest, desc.Size)
}

// unexpected makes an end of the body the error that it is.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (c *Client) get(ctx context.Context, kind, id string, header http.Header) (*http.Response, error) {
	client, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	// The transport replaces the scheme by the one that the registry was met with.
	url := fmt.Sprintf("%s://%s/v2/%s/%s/%s", c.repo.Scheme(), c.repo.RegistryStr(), c.repo.RepositoryStr(), kind, id)
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
func (c *Client) retry(ctx context.Context, f func(ctx context.Context, alive func()) (progress bool, err error)) error {
	for failures := 1; ; failures++ {
		progress, err := c.attempt(ctx, f)
		if err == nil || ctx.Err() != nil || permanent(err) {
			return err
		}
		if progress {
			failures = 1
		}
		if failures >= c.o.Retry.Attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(c.pause(failures, err)):
		}
	}
}

func (c *Client) attempt(ctx context.Context, f func(context.Context, func()) (bool, error)) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.o.Retry.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	progress, err := f(ctx, func() { watch.Reset(c.o.Retry.Stall) })
	if err != nil && context.Cause(ctx) == errStalled {
		err = errStalled
	}
	return progress, err
}

// pause doubles with each failure, with jitter so that many nodes don't come back in step; a
// registry's own wish counts more.
func (c *Client) pause(failures int, err error) time.Duration {
	r := c.o.Retry
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
	if s, perr := strconv.Atoi(resp.Header.Get("Retry-After")); perr == nil && s > 0 {
		return &afterError{err, time.Duration(min(s, 3600)) * time.Second}
	}
	return err
}
