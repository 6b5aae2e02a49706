package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/sys"
)

// Store is the store of images as one namespace sees it (In). All methods may be called at the same time.
type Store struct {
	*core
	namespace string
}

// core is what all namespaces share.
//
// Lock order: disk before mu. Under mu there is no system call.
type core struct {
	layout
	cfg      Config // but for its Tunable
	tunable  atomic.Pointer[Tunable]
	log      *slog.Logger
	platform ispec.Platform
	boot     string
	lock     *sys.Folder // images/, locked

	pool               *registry.Pool
	downloads, unpacks *semaphore.Weighted
	received           atomic.Int64 // bytes of layers, ever
	flights            flights

	// disk orders the changes of what is at final names: what is renamed into place or away, and
	// index.json.
	disk sync.Mutex

	mu        sync.Mutex
	tenants   map[string]tenant           // by namespace; an empty one is not there
	lastUse   map[digest.Digest]time.Time // when a container was last made of an image, by its ID
	blobs     map[digest.Digest]int64     // what is at blobs/sha256, with its size
	layerRecs map[digest.Digest]*layerRec
	leases    map[digest.Digest]int       // blobs and layers (by diff ID) that running work counts on
	keep      map[digest.Digest]time.Time // blobs and layers that wait for a pull's repetition, until then
	snaps     map[string]*snapshot
	trashed   map[string]Usage // what is known of the things in the trashes, by path
	// unmeasured are the snapshots that KnownUsage wants measured, and measuring tells that somebody does.
	unmeasured []string
	measuring  bool
	blanks     []string // names of blank snapshots, ready to be used
	files      fileCache

	gate gate

	// background work: its life, and what wakes it.
	life    context.Context
	end     context.CancelFunc
	workers sync.WaitGroup
	sweep   chan struct{} // trash has something
	settle  chan struct{} // layers are not synced, or garbage may be there

	overlay func() error // nil where the kernel has overlayfs; asked once

	quota   *quota.Book // nil where there is no project quota
	noLimit error       // why writable layers can't have limits; nil if they can
}

// manifest is one image as a manifest describes it. Immutable.
type manifest struct {
	desc   ispec.Descriptor
	config ispec.Descriptor
	image  ispec.Image
	layers []Layer
	pulled time.Time
}

// layerRec is one unpacked layer.
type layerRec struct {
	usage    Usage
	synced   bool
	doubtful bool // a sync has failed: it will not be marked as synced
}

// snapshot is what a container's writable layer lies on.
type snapshot struct {
	namespace string
	image     digest.Digest
	layers    []digest.Digest // the lowest first
	copied    bool            // it is a copy of the image, for want of overlayfs
	project   uint32          // its folder's, 0 if it has none; guarded by mu
	measure   measure
}

// Open opens the store below c.Root, makes it where there is none, and repairs what a crash has left. It returns
// it as DefaultNamespace sees it. One process can have it open at a time.
func Open(c Config) (*Store, error) {
	s, err := newStore(c)
	if err != nil {
		return nil, fmt.Errorf("open the image store: %w", err)
	}
	if err := s.start(); err != nil {
		return nil, err
	}
	return s, nil
}

// start finds out what is there, and begins the work in the background.
func (s *Store) start() error {
	if err := s.openQuota(); err != nil {
		s.lock.Close()
		return fmt.Errorf("open the image store at %s: %w", s.images, err)
	}
	if err := s.load(); err != nil {
		s.closeQuota()
		s.lock.Close()
		return fmt.Errorf("open the image store at %s: %w", s.images, s.remedy(err))
	}
	s.workers.Go(s.sweeper)
	s.workers.Go(s.settler)
	return nil
}

func newStore(c Config) (*Store, error) {
	if c.Root == "" {
		return nil, errors.New("no root directory is configured")
	}
	if strings.ContainsAny(c.Root, ":,\\\"\n") || !strings.HasPrefix(c.Root, "/") {
		return nil, fmt.Errorf("the root directory %q must be an absolute path without : , \\ \" (mount options can't hold them)", c.Root)
	}
	c.setDefaults()
	s := &Store{namespace: DefaultNamespace, core: &core{
		layout:    newLayout(c.Root),
		cfg:       c,
		log:       c.Log,
		platform:  platforms.Normalize(*c.Platform),
		boot:      bootID(),
		pool:      registry.NewPool(c.Transport),
		downloads: semaphore.NewWeighted(int64(c.Downloads)),
		unpacks:   semaphore.NewWeighted(int64(c.Unpacks)),
		tenants:   map[string]tenant{},
		lastUse:   map[digest.Digest]time.Time{},
		blobs:     map[digest.Digest]int64{},
		layerRecs: map[digest.Digest]*layerRec{},
		leases:    map[digest.Digest]int{},
		keep:      map[digest.Digest]time.Time{},
		snaps:     map[string]*snapshot{},
		trashed:   map[string]Usage{},
		sweep:     make(chan struct{}, 1),
		settle:    make(chan struct{}, 1),
	}}
	s.overlay = sync.OnceValue(func() error {
		err := checkOverlay()
		if err != nil {
			s.log.Warn("each container gets a copy of its image, which takes time and room", "err", err)
		}
		return err
	})
	s.Tune(c.Tunable)
	if err := s.makeDirs(); err != nil {
		return nil, s.remedy(err)
	}
	lock, err := sys.OpenFolder(s.images)
	if err != nil {
		return nil, s.remedy(err)
	}
	ok, err := lock.TryLock()
	if err != nil || !ok {
		lock.Close()
		if err == nil {
			err = ErrLocked
		}
		return nil, fmt.Errorf("%s: %w; stop that one, or use another root directory", s.images, err)
	}
	s.lock = lock
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

func (c *Config) setDefaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Platform == nil {
		p := platforms.DefaultSpec()
		c.Platform = &p
	}
	if c.Keychain == nil {
		c.Keychain = registry.DockerKeychain{}
	}
	if c.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 16
		t.MaxConnsPerHost = 32
		t.DisableCompression = true // a blob's bytes are its digest
		c.Transport = t
	}
	setDefault(&c.Downloads, 6)
	setDefault(&c.Unpacks, max(2, runtime.NumCPU()))
	setDefault(&c.MaxImport, 128<<30)
	setDefault(&c.Retry.Attempts, 5)
	setDefault(&c.Retry.Base, 300*time.Millisecond)
	setDefault(&c.Retry.Max, 30*time.Second)
	setDefault(&c.Retry.Stall, 30*time.Second)
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Close ends what runs, waits for it, and gives the store free for another process. Calls under way, and
// later ones, fail with ErrClosed, in all namespaces.
func (s *Store) Close() error {
	s.gate.shut()
	s.end()
	s.gate.calls.Wait()
	s.workers.Wait()
	s.dropBlanks()
	s.pool.Close()
	return errors.Join(s.closeQuota(), s.lock.Close())
}

// gate counts the calls that change something, so that Close can wait for them.
type gate struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// enter begins a call that ends with calls.Done, or says that the store is closed.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.calls.Add(1)
	return nil
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// wake wakes a worker that may be busy.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// have says which of a layer's two forms are here.
func (s *Store) have(l Layer) (blob, layer bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, blob = s.blobs[l.Blob.Digest]
	_, layer = s.layerRecs[l.DiffID]
	return blob, layer
}

// lease keeps blobs and layers from being collected until the function that it returns is called.
func (s *Store) lease(digests ...digest.Digest) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		s.leases[d]++
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range digests {
			if s.leases[d]--; s.leases[d] == 0 {
				delete(s.leases, d)
			}
		}
	})
}

// commitBlob puts the whole, synced file at tmp into the store.
func (s *Store) commitBlob(tmp string, d digest.Digest, size int64) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	if err := place(tmp, s.blob(d), "image/blob"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = size
	return nil
}

// putBytes puts a small blob into the store.
func (s *Store) putBytes(d digest.Digest, b []byte) error {
	s.mu.Lock()
	_, ok := s.blobs[d]
	s.mu.Unlock()
	if ok {
		return nil
	}
	tmp := s.unique(s.ingest, "blob-"+d.Encoded())
	err := writeSynced(tmp, b)
	if err == nil {
		err = s.commitBlob(tmp, d, int64(len(b)))
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("store %s: %w", d, s.remedy(err))
	}
	return nil
}

// isNotExist is fs.ErrNotExist.
func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
