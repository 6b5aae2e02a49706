package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/runtime/resclass"
)

// Config is what a Runtime is made from. RunDir, Images, Network, Shims and Kernel must be set.
type Config struct {
	// RunDir is the folder for state that dies with the boot, as /run/berth.
	RunDir string
	// CgroupParent is the cgroup that pods without one of their own go under. Default /berth.
	CgroupParent string
	// SystemdCgroup has the pods' cgroups be slices of systemd's and the containers' be scopes in them. CgroupParent is
	// then the cgroup of a slice, and Kernel makes slices.
	SystemdCgroup bool
	// Handlers are the RuntimeClass handlers that exist, by name, beside "" for the node's own.
	Handlers map[string]Handler
	// ResolvConf is copied to pods that bring no DNS configuration. Default /etc/resolv.conf.
	ResolvConf string
	// ShmSize is the size of a pod's /dev/shm in bytes. Default 64 MiB.
	ShmSize int64
	// ShimTimeout is how long one call to a shim may take, a start aside. Default 10 s.
	ShimTimeout time.Duration
	// DeathTimeout is how long a killed container's shim has to report its end before the kernel's
	// word is taken alone. Default 2 s.
	DeathTimeout time.Duration

	Images  Images
	Network Network
	Shims   Shims
	Kernel  Kernel
	// Plugins may be nil.
	Plugins Plugins
	// LSM may be nil: then the node is taken to have none.
	LSM LSM
	// CRIU is the path of the program that writes checkpoints; empty looks in PATH.
	CRIU string
	// ScratchDir is a folder for checkpoints that are being made, as large as the containers' memory. Default
	// RunDir/checkpoints.
	ScratchDir string
	// Classes may be nil: then the node has none.
	Classes *resclass.Classes
	// CDIDirs hold the descriptions of CDI devices. Default /etc/cdi and /var/run/cdi.
	CDIDirs []string

	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	if c.RunDir == "" || c.Images == nil || c.Network == nil || c.Shims == nil || c.Kernel == nil {
		return errors.New("open runtime: run directory, images, network, shims and kernel must be given")
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/berth"
	}
	if c.Plugins == nil {
		c.Plugins = noPlugins{}
	}
	if c.LSM == nil {
		c.LSM = noLSM{}
	}
	if len(c.CDIDirs) == 0 {
		c.CDIDirs = []string{"/etc/cdi", "/var/run/cdi"}
	}
	if c.ScratchDir == "" {
		c.ScratchDir = filepath.Join(c.RunDir, "checkpoints")
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.ShmSize == 0 {
		c.ShmSize = 64 << 20
	}
	if c.ShimTimeout == 0 {
		c.ShimTimeout = 10 * time.Second
	}
	if c.DeathTimeout == 0 {
		c.DeathTimeout = 2 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Runtime keeps the sandboxes and containers of a node. Its methods may be called from any goroutine.
type Runtime struct {
	cfg    Config
	log    *slog.Logger
	store  *store
	events *eventLog
	oomAdj int // the least oom_score_adj that this process may give

	life context.Context // ends with Close
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu         sync.RWMutex
	sandboxes  map[string]*sandbox   // by ID, in every state
	containers map[string]*container // by ID, in every state
	names      map[string]*sandbox   // by identity

	debts  *debts
	gauges *gauges
	starts *admission

	repaired atomic.Uint64
	sources  sources
	specs    engine.SpecWriter
}

// Open takes over what an earlier Runtime with the same RunDir left, running containers untouched,
// undoes what it had not finished, and returns a Runtime that knows all of it.
func Open(ctx context.Context, cfg Config) (*Runtime, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	st, err := newStore(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	r := &Runtime{
		cfg: cfg, log: cfg.Logger, store: st, events: newEventLog(time.Now()),
		oomAdj: leastOOMScoreAdj(), life: life, end: end,
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]*sandbox{},
	}
	r.debts, r.gauges, r.starts = newDebts(r), newGauges(cfg.Kernel, r.count), newAdmission()
	if err := os.MkdirAll(cfg.ScratchDir, 0o700); err != nil {
		end()
		return nil, fmt.Errorf("make folder for checkpoints: %w", err)
	}
	err = r.recover(ctx)
	if err == nil {
		err = r.emptyScratch()
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("recover runtime state in %s: %w", st.dir, err)
	}
	r.wg.Add(2)
	go func() { defer r.wg.Done(); r.listen() }()
	go func() { defer r.wg.Done(); r.debts.run() }()
	return r, nil
}

// Close stops looking after the containers and leaves them running. Calls in flight are interrupted,
// and what they leave half-done is undone, now or by the next Open.
func (r *Runtime) Close() error {
	r.end()
	r.wg.Wait()
	r.quiesce(r.cfg.ShimTimeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sb := range r.sandboxes {
		sb.ledger.close()
	}
	return nil
}

// quiesce waits until no actor is at work.
func (r *Runtime) quiesce(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var ops []*operation
	r.mu.RLock()
	for _, sb := range r.sandboxes {
		ops = append(ops, sb.actor.do(nothing))
	}
	for _, c := range r.containers {
		ops = append(ops, c.stopping.do(nothing), c.actor.do(nothing))
	}
	r.mu.RUnlock()
	for _, o := range ops {
		if err := o.wait(ctx); err != nil {
			r.log.Warn("closed while something is still being done", "error", err)
			return
		}
	}
}

func nothing() error { return nil }

// Sandboxes lists the sandboxes that are ready or stopped, in no order.
func (r *Runtime) Sandboxes() []SandboxStatus {
	all := r.everySandbox()
	out := make([]SandboxStatus, 0, len(all))
	for _, sb := range all {
		if s := sb.get(); s.State == SandboxReady || s.State == SandboxStopped {
			out = append(out, s)
		}
	}
	return out
}

// count is how many sandboxes and containers there are, in every state.
func (r *Runtime) count() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(len(r.sandboxes) + len(r.containers))
}

// Sandbox returns a sandbox by ID, or errdefs.ErrNotFound.
func (r *Runtime) Sandbox(id string) (SandboxStatus, error) {
	if sb := r.sandbox(id); sb != nil {
		if s := sb.get(); s.State == SandboxReady || s.State == SandboxStopped {
			return s, nil
		}
	}
	return SandboxStatus{}, fmt.Errorf("sandbox %q: %w", id, errdefs.ErrNotFound)
}

// Containers lists the containers that were created and not removed, in no order. An empty sandboxID
// means those of all sandboxes.
func (r *Runtime) Containers(sandboxID string) []ContainerStatus {
	all := r.everyContainer(sandboxID)
	out := make([]ContainerStatus, 0, len(all))
	for _, c := range all {
		if s := c.get(); s.listed() {
			out = append(out, s)
		}
	}
	return out
}

// everyContainer is a sandbox's, or with "" all, of every state, in no order.
func (r *Runtime) everyContainer(sandboxID string) []*container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		if sandboxID == "" || c.sb.id == sandboxID {
			all = append(all, c)
		}
	}
	return all
}

// Container returns a container by ID, or errdefs.ErrNotFound.
func (r *Runtime) Container(id string) (ContainerStatus, error) {
	c, err := r.listedContainer(id)
	if err != nil {
		return ContainerStatus{}, err
	}
	return c.get(), nil
}

func (s ContainerStatus) listed() bool {
	return s.State != ContainerCreating && s.State != ContainerRemoving
}

func (r *Runtime) sandbox(id string) *sandbox {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sandboxes[id]
}

func (r *Runtime) container(id string) *container {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.containers[id]
}

func (r *Runtime) listedContainer(id string) (*container, error) {
	if c := r.container(id); c != nil && c.get().listed() {
		return c, nil
	}
	return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
}

// emit writes an event with the pod as it is now.
func (r *Runtime) emit(kind EventKind, sb *sandbox, containerID string) {
	e := Event{Time: time.Now(), Kind: kind, SandboxID: sb.id, ContainerID: containerID, Sandbox: sb.get()}
	for _, c := range sb.children() {
		if s := c.get(); s.listed() || s.ID == containerID {
			e.Containers = append(e.Containers, s)
		}
	}
	r.events.append(e)
}

// undoContext is for taking things back: it does not end with the call that failed, only with time.
func (r *Runtime) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 3*r.cfg.ShimTimeout)
}

// shimContext bounds one call to a shim.
func (r *Runtime) shimContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, r.cfg.ShimTimeout)
}

// newID returns 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
