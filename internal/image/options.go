package image

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/11f9778f/berth/internal/image/quota"
	"github.com/11f9778f/berth/internal/image/registry"
	"github.com/11f9778f/berth/internal/image/unpack"
)

// Config says where a store lives and what it may use. The zero value of every field but Root is good.
type Config struct {
	// Root is the state directory, "/var/lib/berth"; the store owns images/ and snapshots/ in it.
	Root string
	// Log is where the store tells what it repaired; nil is silence.
	Log *slog.Logger
	// Platform is what images are chosen for; nil is this machine's.
	Platform *ispec.Platform
	// Tunable can be changed while the store is open.
	Tunable
	// Keychain finds credentials where a pull brings none; nil is Docker's config.json.
	Keychain authn.Keychain
	// Transport is the HTTP transport below authentication and retries; nil is a fresh default.
	Transport http.RoundTripper
	// Downloads bounds the layers that are fetched at once, over all pulls; 0 is 6.
	Downloads int
	// Unpacks bounds the layers that are unpacked at once; 0 is the number of processors, at least 2.
	Unpacks int
	// Blanks bounds the snapshots that are kept because nobody has written into them; 0 is 64, negative none.
	Blanks int
	// WritableLimit is the most that a container may write into its root filesystem. Open fails with ErrNoLimit where
	// the filesystem can't hold it to that.
	WritableLimit Limit
	// Retry is how a registry's failures are met.
	Retry Retry
	// Limits bounds what one layer may hold.
	Limits unpack.Limits
	// MaxImport bounds the bytes of an archive given to Import, after decompression; 0 is 128 GiB.
	MaxImport int64

	openQuota func(base string) (*quota.Book, error) // nil is quota.Open
}

// Limit is the most that a writable layer may take of the disk; 0 is no limit.
type Limit = quota.Limit

// Tunable is the part of Config that can be changed while the store is open.
type Tunable struct {
	// PlainHTTP are registry hosts ("host" or "host:port") that may be spoken to without TLS.
	// Loopback addresses always may.
	PlainHTTP []string
	// RegistryDirs are folders like containerd's certs.d, with mirrors and certificates of registries; the
	// first that knows a registry counts. They are read at each pull.
	RegistryDirs []string
	// KeepForRetry is how long the whole layers of a pull that failed on the network (or was
	// cancelled) stay for its repetition. 0 keeps none.
	KeepForRetry time.Duration
	// Policy is a file that says which images may be used, read whenever it is asked (package trust); "" allows all.
	Policy string
}

// Tune changes it: for pulls that begin from now on.
func (s *Store) Tune(t Tunable) { s.tunable.Store(&t) }

// Retry is the back-off after a registry's 408, 429, 5xx or broken connection.
type Retry struct {
	// Attempts is how often in a row something may fail without a byte of progress; 0 is 5.
	Attempts int
	// Base is the first pause; each further one doubles, with jitter; 0 is 300 ms.
	Base time.Duration
	// Max bounds a pause, also one that the registry asks for by Retry-After; 0 is 30 s.
	Max time.Duration
	// Stall is how long a connection may send nothing before it counts as broken; 0 is 30 s.
	Stall time.Duration
}

// Auth are credentials for one registry, as CRI's AuthConfig has them.
type Auth = registry.Auth

// PullOptions are the choices of one pull.
type PullOptions struct {
	// Auth are the credentials; nil asks the keychain.
	Auth *Auth
	// Platform overrides the store's.
	Platform *ispec.Platform
	// PlainHTTP adds hosts to the store's.
	PlainHTTP []string
	// Progress is called about ten times a second from one goroutine, and once at the end. It must not
	// block for long. The slice of layers belongs to the callee.
	Progress func(Progress)
}

// ImportOptions are the choices of one import.
type ImportOptions struct {
	// Name is given to an image whose archive has no full name for it: "repo" or "repo:tag".
	Name string
	// Platform overrides the store's.
	Platform *ispec.Platform
	// Progress is as in PullOptions.
	Progress func(Progress)
}

// Phase says how far something is.
type Phase string

// Phases of a pull and of a layer.
const (
	PhaseResolving   Phase = "resolving"   // a pull: manifest and configuration are being fetched
	PhasePulling     Phase = "pulling"     // a pull: layers are on their way
	PhaseWaiting     Phase = "waiting"     // a layer: another one is using the line
	PhaseDownloading Phase = "downloading" // a layer: bytes come in (and are unpacked meanwhile)
	PhaseUnpacking   Phase = "unpacking"   // a layer: all bytes are here, unpacking goes on
	PhaseDone        Phase = "done"        // both: finished
	PhaseExists      Phase = "exists"      // a layer: was here before
	PhaseFailed      Phase = "failed"      // both
)

// Progress is the state of one pull.
type Progress struct {
	Ref    string
	Phase  Phase
	Layers []LayerProgress
}

// LayerProgress is the state of one layer of a pull.
type LayerProgress struct {
	Digest digest.Digest
	Phase  Phase
	// Downloaded of Size bytes are here.
	Downloaded, Size int64
	// Unpacked is the number of uncompressed bytes that were unpacked.
	Unpacked int64
}
