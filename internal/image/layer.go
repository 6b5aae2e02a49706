package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/image/kind"
	"github.com/11f9778f/berth/internal/image/unpack"
	"github.com/11f9778f/berth/internal/trace"
)

// blobSource is where a pull or an import has its blobs from. A registry.Client is one.
type blobSource interface {
	// Blob writes a blob's bytes to w.
	Blob(ctx context.Context, desc ispec.Descriptor, w io.Writer) error
	// Distrust tells the source that the blob has come with another digest. The error says who sent it, again
	// whether Blob may bring the right one now.
	Distrust(desc ispec.Descriptor, got digest.Digest) (again bool, err error)
	// Alternatives tells whether Distrust would say so.
	Alternatives() bool
}

// fetchFunc is a blobSource of one host.
type fetchFunc func(ctx context.Context, desc ispec.Descriptor, w io.Writer) error

// Blob implements blobSource.
func (f fetchFunc) Blob(ctx context.Context, desc ispec.Descriptor, w io.Writer) error {
	return f(ctx, desc, w)
}

// Distrust implements blobSource.
func (fetchFunc) Distrust(desc ispec.Descriptor, got digest.Digest) (bool, error) {
	return false, kind.Errorf(ErrCorrupt, "the bytes of layer %s have the digest %s; do not trust their source", desc.Digest, got)
}

// Alternatives implements blobSource.
func (fetchFunc) Alternatives() bool { return false }

// errLied is a blob with wrong bytes, where somebody else may have the right ones.
var errLied = errors.New("asked elsewhere")

// layerFile is layers/<hex>/layer.json.
type layerFile struct {
	DiffID digest.Digest `json:"diffID"`
	Bytes  int64         `json:"bytes"`
	Inodes int64         `json:"inodes"`
	Boot   string        `json:"boot"` // the boot in which it was unpacked
}

const (
	layerFileName  = "layer.json"
	syncedFileName = "synced" // exists when everything in the layer is on the disk

	// outcomeSlack is how many bytes are worth waiting for to tell a blob with wrong bytes from one
	// whose right bytes are no layer.
	outcomeSlack = 64 << 20
)

// ensureLayers brings all layers into the store, blob and files, at the same time. The caller holds
// leases on them. fetch may be nil: then the blobs must be here.
func (s *Store) ensureLayers(ctx context.Context, layers []Layer, fetch blobSource, r *reporter) error {
	states := make([]*layerState, len(layers))
	for i, l := range layers {
		states[i] = newLayerState(l.Blob.Digest, l.Blob.Size)
	}
	r.pulling(states)
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range layers {
		g.Go(func() error {
			return s.ensureLayer(ctx, l, fetch, states[i], func(st *layerState) { r.replace(i, st) })
		})
	}
	return g.Wait()
}

// ensureLayer brings one layer into the store, or joins whoever is about to.
func (s *Store) ensureLayer(ctx context.Context, l Layer, fetch blobSource, state *layerState, shared func(*layerState)) error {
	key := l.Blob.Digest.String() + " " + l.DiffID.String()
	for {
		if blob, layer := s.have(l); blob && layer {
			state.set(PhaseExists)
			shared(state)
			return nil
		}
		fl, mine := s.flights.join(s.life, key, state, func(ctx context.Context, st *layerState) error {
			// Whoever leaves before the end must not take the leases along.
			defer s.lease(l.Blob.Digest, l.DiffID)()
			err := s.makeLayer(ctx, l, fetch, st)
			for errors.Is(err, errLied) {
				s.log.Warn("a layer is fetched again from elsewhere", "layer", l.Blob.Digest, "err", err)
				st.downloaded.Store(0)
				st.unpacked.Store(0)
				err = s.makeLayer(ctx, l, fetch, st)
			}
			if err != nil {
				st.set(PhaseFailed)
			}
			return err
		})
		shared(fl.state)
		err := s.flights.wait(ctx, key, fl)
		if err == nil || mine || ctx.Err() != nil {
			if err != nil && s.life.Err() != nil {
				return ErrClosed
			}
			return err
		}
		// Somebody else's pull of this layer failed, perhaps for want of credentials: try our own.
		shared(state)
	}
}

// makeLayer does the work for one layer: what is missing of blob and files.
func (s *Store) makeLayer(ctx context.Context, l Layer, fetch blobSource, st *layerState) error {
	blob, layer := s.have(l)
	switch {
	case blob && layer:
		st.set(PhaseExists)
		return nil
	case !blob && fetch == nil:
		return kind.Errorf(ErrNotFound, "the blob %s of layer %s is not in the store; pull the image again", l.Blob.Digest, l.DiffID)
	}
	w := &layerWork{s: s, l: l, st: st, fetch: fetch}
	defer w.cleanup()
	g, gctx := errgroup.WithContext(ctx)
	if blob {
		f, err := os.Open(s.blob(l.Blob.Digest))
		if err != nil {
			return err
		}
		defer f.Close()
		st.downloaded.Store(l.Blob.Size)
		w.source = newFollower(gctx, f, l.Blob.Size)
	} else if err := w.download(gctx, g); err != nil {
		return s.remedy(err)
	}
	if !layer {
		g.Go(func() error { return w.unpack(gctx) })
	}
	if err := g.Wait(); err != nil {
		return s.remedy(err)
	}
	if err := w.commit(); err != nil {
		return s.remedy(fmt.Errorf("store layer %s: %w", l.DiffID, err))
	}
	st.set(PhaseDone)
	return nil
}

// layerWork is one layer being made.
type layerWork struct {
	s      *Store
	l      Layer
	st     *layerState
	fetch  blobSource
	source *follower // the blob's bytes, as they come

	blobTmp  string // the blob in ingest/, or "" where it was here before
	layerTmp string // the layer in ingest/, or ""
	rec      *layerRec
}

// cleanup removes what is left in ingest/ when something failed.
func (w *layerWork) cleanup() {
	if w.source != nil {
		w.source.close()
	}
	if w.blobTmp != "" {
		os.Remove(w.blobTmp)
	}
	if w.layerTmp == "" {
		return
	}
	if err := w.s.discardSized(w.layerTmp, w.s.trash, Usage{Bytes: w.st.unpacked.Load()}); err != nil {
		w.s.log.Warn("a half-made layer stays until the next start", "path", w.layerTmp, "err", err)
	}
	wake(w.s.sweep)
}

// download starts to fetch the blob into ingest/.
func (w *layerWork) download(ctx context.Context, g *errgroup.Group) error {
	if err := w.s.downloads.Acquire(ctx, 1); err != nil {
		return err
	}
	w.st.set(PhaseDownloading)
	tmp := w.s.unique(w.s.ingest, "blob-"+w.l.Blob.Digest.Encoded())
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		w.s.downloads.Release(1)
		return err
	}
	w.blobTmp = tmp
	w.source = newFollower(ctx, f, -1)
	w.source.owned = true
	if err := failpoint.Here("image/ingest/blob"); err != nil {
		w.s.downloads.Release(1)
		return err
	}
	g.Go(func() error {
		err := w.receive(ctx, f)
		w.source.finish(err)
		w.s.downloads.Release(1)
		if err != nil {
			return err
		}
		w.st.set(PhaseUnpacking)
		defer trace.Start(ctx, "image.sync-blob")()
		if err := failpoint.Here("image/ingest/blob-unsynced"); err != nil {
			return err
		}
		return f.Sync()
	})
	return nil
}

// receive writes the blob to f and checks its digest.
func (w *layerWork) receive(ctx context.Context, f *os.File) error {
	want := w.l.Blob.Digest
	hash := want.Algorithm().Hash()
	out := writerFunc(func(p []byte) (int, error) {
		if err := failpoint.Here("image/ingest/blob-bytes"); err != nil {
			return 0, err
		}
		n, err := f.Write(p)
		hash.Write(p[:n])
		w.source.advance(n)
		w.st.downloaded.Add(int64(n))
		w.s.received.Add(int64(n))
		return n, err
	})
	if err := w.fetch.Blob(ctx, w.l.Blob, out); err != nil {
		return err
	}
	got := digest.NewDigest(want.Algorithm(), hash)
	if got == want {
		return nil
	}
	again, err := w.fetch.Distrust(w.l.Blob, got)
	if again {
		return kind.Errorf(errLied, "%w", err)
	}
	return err
}

type writerFunc func([]byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// unpack unpacks the blob's bytes into ingest/ and checks the diff ID.
func (w *layerWork) unpack(ctx context.Context) error {
	if err := w.s.unpacks.Acquire(ctx, 1); err != nil {
		return err
	}
	defer w.s.unpacks.Release(1)
	if w.blobTmp == "" {
		w.st.set(PhaseUnpacking)
	}
	defer trace.Start(ctx, "image.unpack")()
	w.layerTmp = w.s.unique(w.s.ingest, "layer-"+w.l.DiffID.Encoded())
	dir := filepath.Join(w.layerTmp, "fs")
	if err := makeDir(w.layerTmp, 0o700); err != nil {
		return err
	}
	if err := makeDir(dir, 0o755); err != nil {
		return err
	}
	if err := failpoint.Here("image/ingest/layer"); err != nil {
		return err
	}
	stats, got, err := w.apply(ctx, dir)
	// What the source says about itself explains more than what the unpacker made of its bytes.
	if err != nil && !isCancel(err) {
		slack := int64(outcomeSlack)
		if w.fetch != nil && w.fetch.Alternatives() {
			slack = w.l.Blob.Size // a lie can be mended: find it out
		}
		if serr := w.source.outcome(w.l.Blob.Size, slack); serr != nil {
			return serr
		}
	}
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", w.l.Blob.Digest, layerError(err))
	}
	if got != w.l.DiffID {
		return kind.Errorf(ErrCorrupt, "layer %s unpacks to %s, its image's configuration says %s; do not use this image", w.l.Blob.Digest, got, w.l.DiffID)
	}
	if err := failpoint.Here("image/ingest/layer-unpacked"); err != nil {
		return err
	}
	w.rec = &layerRec{usage: Usage{Bytes: stats.DiskBytes, Inodes: stats.Inodes}}
	b, err := json.Marshal(layerFile{DiffID: got, Bytes: w.rec.usage.Bytes, Inodes: w.rec.usage.Inodes, Boot: w.s.boot})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.layerTmp, layerFileName), b, 0o600); err != nil {
		return err
	}
	return failpoint.Here("image/ingest/layer-record")
}

// apply unpacks into dir and returns the digest of the whole uncompressed stream.
func (w *layerWork) apply(ctx context.Context, dir string) (unpack.Stats, digest.Digest, error) {
	ahead := newAhead(w.source, w.st.unpacked.Add)
	defer ahead.close()
	defer w.source.detach()
	stats, err := unpack.Apply(ctx, dir, ahead, w.s.cfg.Limits)
	if err != nil {
		return stats, "", err
	}
	if err := ahead.drain(w.s.cfg.Limits); err != nil {
		return stats, "", err
	}
	return stats, ahead.digest(), nil
}

// commit gives blob and files their final names.
func (w *layerWork) commit() error {
	if w.blobTmp != "" {
		if err := w.s.commitBlob(w.blobTmp, w.l.Blob.Digest, w.l.Blob.Size); err != nil {
			return err
		}
		w.blobTmp = ""
	}
	if w.layerTmp == "" {
		return nil
	}
	s := w.s
	s.disk.Lock()
	defer s.disk.Unlock()
	s.mu.Lock()
	_, here := s.layerRecs[w.l.DiffID]
	s.mu.Unlock()
	if here {
		return nil // the same files came in another blob; ours go to the trash
	}
	final := s.layer(w.l.DiffID)
	if exists(final) { // something that nobody knows
		if err := s.discard(final, s.trash); err != nil {
			return err
		}
	}
	if err := place(w.layerTmp, final, "image/layer"); err != nil {
		return err
	}
	w.layerTmp = ""
	s.mu.Lock()
	s.layerRecs[w.l.DiffID] = w.rec
	s.mu.Unlock()
	wake(s.settle)
	return nil
}

// isCancel says whether err is only the echo of somebody's cancellation.
func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
