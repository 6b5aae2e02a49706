package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/eventlog"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
)

// Kubelet is a node agent. Make one with New, then Run it. It is an api.Node.
type Kubelet struct {
	cfg   Config
	paths paths
	node  criconfig.Node
	log   *eventlog.Log

	mu      sync.Mutex
	workers map[string]*worker // by namespace/name; also those that are on their way out
	byUID   map[string]*worker
	ctx     context.Context // of Run; nil before
	closing bool            // nothing is taken any more
	running sync.WaitGroup

	shutdown chan struct{} // closed when a client asked for the daemon's end
}

var _ api.Node = (*Kubelet)(nil)

// New checks cfg and reads what is persisted below cfg.Root. It starts nothing, and calls no runtime.
func New(cfg Config) (*Kubelet, error) {
	if cfg.Root == "" || cfg.Runtime == nil || cfg.Images == nil {
		return nil, errors.New("kubelet: Root, Runtime and Images are needed")
	}
	cfg.setDefaults()
	k := &Kubelet{
		cfg:     cfg,
		paths:   paths{pods: filepath.Join(cfg.Root, "kubelet", "pods"), logs: filepath.Join(cfg.Root, "logs", "pods")},
		log:     eventlog.New(cfg.EventRing, time.Now()),
		workers: map[string]*worker{}, byUID: map[string]*worker{},
		shutdown: make(chan struct{}),
	}
	var err error
	if k.node, err = cfg.describeNode(); err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	records, err := k.paths.load()
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	for _, r := range records {
		w := k.newWorker(r)
		close(w.saved)
		k.workers[r.Pod.Namespace+"/"+r.Pod.Name] = w
		k.byUID[w.uid] = w
	}
	return k, nil
}

func (c *Config) setDefaults() {
	policy := lifecycle.DefaultPolicy()
	set(&c.BackOffInitial, policy.BackOffInitial)
	set(&c.BackOffMax, policy.BackOffMax)
	set(&c.BackOffReset, policy.BackOffReset)
	set(&c.EventRing, 4096)
	set(&c.CgroupParent, "/berth")
	set(&c.ResolvConf, "/etc/resolv.conf")
	set(&c.HostsFile, "/etc/hosts")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run keeps the pods until ctx ends or a client asks for the daemon's shutdown, then returns nil; containers
// run on. It serves the node API at cfg.Socket, if there is one. An error means that it could not begin.
func (k *Kubelet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.mu.Lock()
	if k.ctx != nil {
		k.mu.Unlock()
		return errors.New("kubelet: Run is called a second time")
	}
	k.mu.Unlock()
	var serving sync.WaitGroup
	if k.cfg.Socket != "" {
		l, err := api.Listen(k.cfg.Socket)
		if err != nil {
			return err
		}
		serving.Go(func() { api.Serve(ctx, l, k.Handler()) })
	}
	first := make(chan error, 1)
	var pumping sync.WaitGroup
	pumping.Go(func() { k.pump(ctx, first) })
	err := <-first
	if err == nil {
		k.start(ctx)
		k.running.Go(func() { k.collectImages(ctx) })
		select {
		case <-ctx.Done():
		case <-k.shutdown:
		}
	}
	k.mu.Lock()
	k.closing = true
	k.mu.Unlock()
	cancel()
	k.running.Wait()
	pumping.Wait()
	serving.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// start sets every worker going, and those that come later.
func (k *Kubelet) start(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ctx = ctx
	for _, w := range k.workers {
		select {
		case <-w.saved:
		default:
			continue // Apply sets it going
		}
		k.running.Go(func() { w.run(ctx) })
	}
}

// Handler is the node API.
func (k *Kubelet) Handler() http.Handler { return api.NewHandler(k) }

// forget takes a pod that is gone out of the lists.
func (k *Kubelet) forget(w *worker) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.workers[w.space+"/"+w.podName] == w {
		delete(k.workers, w.space+"/"+w.podName)
	}
	delete(k.byUID, w.uid)
}

// describeNode finds out what pods are told of the node.
func (c *Config) describeNode() (criconfig.Node, error) {
	n := criconfig.Node{Name: c.NodeName, HostIP: c.HostIP, CgroupParent: c.CgroupParent, MemoryTotal: memoryTotal(), CPUs: int64(cpus())}
	if n.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return n, err
		}
		n.Name = name
	}
	if n.HostIP == "" {
		n.HostIP = hostIP()
	}
	resolv, err := os.ReadFile(c.ResolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return n, err
	}
	n.DNS = criconfig.ParseDNS(string(resolv))
	return n, nil
}
