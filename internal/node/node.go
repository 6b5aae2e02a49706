package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/11f9778f/berth/internal/cri"
	"github.com/11f9778f/berth/internal/engine/systemd"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/kubelet"
	"github.com/11f9778f/berth/internal/kubelet/imagegc"
	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/dnsconf"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
	"github.com/11f9778f/berth/internal/runtime/nri"
	"github.com/11f9778f/berth/internal/runtime/resclass"
	"github.com/11f9778f/berth/internal/shim/client"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/11f9778f/berth/internal/telemetry"
)

// Node is the daemon: its rooms, the lowest first.
type Node struct {
	cfg     Config
	version string
	started time.Time
	lock    *os.File
	fresh   bool // the run directory had no node before

	kernel  machine.Kernel
	store   *images
	network network.Network
	shims   *client.Manager
	runtime *runtime.Runtime
	plugins *nri.Plugins // nil without any
	metrics *telemetry.Metrics
	tracer  *telemetry.Tracer // nil if nothing is to be traced
	cri     *cri.Server
	kubelet *kubelet.Kubelet // nil if Config.CRIOnly
	sockets []*socket

	active activity
}

// New makes a node that has not begun. version is Berth's own.
func New(cfg Config, version string) *Node {
	return &Node{cfg: cfg.withDefaults(), version: version}
}

// Run is the daemon's life. It returns nil when ctx has ended or a client asked for the end.
func (n *Node) Run(ctx context.Context) error {
	n.started = time.Now()
	n.active.last.Store(n.started.UnixNano())
	if err := n.claim(); err != nil {
		return err
	}
	if err := n.open(ctx); err != nil {
		return errors.Join(err, n.close())
	}
	err := n.serve(ctx)
	return errors.Join(err, n.close())
}

// shimLinger is how long a shim waits for another pod after its last: longer than what restarts or replaces a pod takes.
const shimLinger = 10 * time.Second

// maxSocketPath is the kernel's limit for the path of a unix socket, less what shims add to the run directory.
const maxSocketPath = 107 - len("/shims/0123456789abcdef/shim.sock")

// claim makes the folders and takes the run directory for this node alone.
func (n *Node) claim() error {
	if len(n.cfg.Run) > maxSocketPath {
		return fmt.Errorf("the run directory %s has a path too long for the sockets in it: choose one of at most %d bytes with --run", n.cfg.Run, maxSocketPath)
	}
	for _, dir := range []string{n.cfg.Root, n.cfg.Run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the node's folders: %w", err)
		}
	}
	_, err := os.Lstat(lockPath(n.cfg.Run))
	n.fresh = errors.Is(err, fs.ErrNotExist)
	lock, err := lockRun(n.cfg.Run, n.cfg.verb())
	if errors.Is(err, sys.ErrLocked) {
		return fmt.Errorf("another node (%s) is running on %s: use that one, end it, or choose other folders with --root and --run", readHolder(n.cfg.Run), n.cfg.Run)
	}
	n.lock = lock
	return err
}

// open opens the rooms, the lowest first. What an earlier node left is taken over here.
func (n *Node) open(ctx context.Context) error {
	store, err := image.Open(image.Config{
		Root: n.cfg.Root, Tunable: n.cfg.Tunable.Tunable, Downloads: n.cfg.Downloads, Unpacks: n.cfg.Unpacks, Blanks: n.cfg.Blanks, WritableLimit: n.cfg.WritableLimit, Log: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	n.store = &images{Store: store, exe: n.cfg.Exe, log: n.cfg.Log}
	if err := n.openNetwork(); err != nil {
		return err
	}
	n.shims, err = client.Open(ctx, client.Config{
		RunDir: n.cfg.Run, Handlers: n.cfg.shimHandlers(), GroupSize: n.cfg.GroupSize, LogSize: n.cfg.LogSize, LogFiles: n.cfg.LogFiles, Spare: n.cfg.IdleExit == 0 && !n.cfg.NoSpareShim, Linger: shimLinger, Logger: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	plugins, err := n.openPlugins()
	if err != nil {
		return err
	}
	if n.cfg.SystemdCgroup {
		n.kernel.Units = &systemd.Lazy{}
	}
	classes, err := resclass.Load(n.cfg.BlockIOConfig, n.cfg.RDTConfig)
	if err != nil {
		return err
	}
	n.runtime, err = runtime.Open(ctx, runtime.Config{
		Plugins: plugins,
		RunDir:  n.cfg.Run, CgroupParent: n.cfg.Names.CgroupParent, SystemdCgroup: n.cfg.SystemdCgroup, Handlers: n.cfg.handlers(),
		Images: machine.Images(store), Network: machine.Network(n.network), Shims: machine.Shims(n.shims), Kernel: n.kernel, LSM: &machine.LSM{}, CDIDirs: n.cfg.CDIDirs,
		Classes: classes, CRIU: n.cfg.CRIU, ScratchDir: filepath.Join(n.cfg.Root, "checkpoints"),
		ResolvConf: dnsconf.NodeFile(), Logger: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	if err := n.openTelemetry(ctx); err != nil {
		return err
	}
	if n.plugins != nil {
		if err := n.plugins.Start(n.runtime); err != nil {
			return err
		}
	}
	n.cri, err = cri.New(cri.Config{
		Runtime: n.runtime, Images: n.store, SnapshotDir: filepath.Join(n.cfg.Root, "snapshots"), Version: n.version,
		StateDir: n.cfg.Run, Pinned: n.cfg.Pinned,
		Streaming: n.cfg.Streaming, Network: n.network, Unary: n.unary(), Stream: []grpc.StreamServerInterceptor{n.metrics.Stream}, Logger: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	if n.cfg.CRIOnly {
		return nil
	}
	n.kubelet, err = kubelet.New(kubelet.Config{
		Root: n.cfg.Root, NodeName: n.cfg.NodeName, ImageGC: n.imageGC(), CgroupParent: n.cfg.Names.CgroupParent,
		ResolvConf: dnsconf.NodeFile(), Runtime: n.cri, Images: imageService{n.cri}, Logger: n.cfg.Log,
	})
	return err
}

// imageGC is the policy of a node that is there for good; one that somebody's pod has started removes no images
// behind his back.
func (n *Node) imageGC() imagegc.Policy {
	if n.cfg.IdleExit > 0 {
		return imagegc.Policy{}
	}
	return n.cfg.ImageGC
}

// Tune changes a node that is ready, for what begins from now on. Pods that run keep what they have.
func (n *Node) Tune(t Tunable) {
	n.store.Tune(t.Tunable)
	n.shims.SetHandlers(t.shimHandlers())
	n.runtime.SetHandlers(t.handlers())
}

// listen makes a socket that goes when the node does.
func (n *Node) listen(path string) (net.Listener, error) {
	l, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	n.sockets = append(n.sockets, l)
	return l, nil
}

// serve answers on both sockets until ctx ends, somebody asks for the end, or the node is idle for
// too long.
func (n *Node) serve(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	own, err := n.listen(n.cfg.NodeSocket())
	if err != nil {
		return err
	}
	criSocket, err := n.listen(n.cfg.CRISocket)
	if err != nil {
		return err
	}
	watched, err := n.listenMonitor()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	if watched != nil {
		mux := http.NewServeMux()
		n.monitor(mux)
		g.Go(func() error { return serveHTTP(gctx, watched, mux) })
	}
	if n.kubelet != nil {
		g.Go(func() error {
			defer end() // the kubelet returns when a client asked for the end
			return n.kubelet.Run(gctx)
		})
	}
	g.Go(func() error { return n.cri.Serve(gctx, criSocket) })
	g.Go(func() error { rest(gctx, n.cfg.Log); return nil })
	g.Go(func() error { return serveHTTP(gctx, own, n.handler()) })
	if n.cfg.IdleExit > 0 {
		g.Go(func() error { n.endWhenIdle(gctx, end); return nil })
	}
	n.cfg.Log.Info("node is up", "version", n.version, "verb", n.cfg.verb(), "root", n.cfg.Root, "run", n.cfg.Run,
		"cri", n.cfg.CRISocket, "bridge", n.cfg.Names.Bridge, "took", time.Since(n.started))
	n.cfg.Ready()
	return g.Wait()
}

// serveHTTP answers until ctx ends.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		// Streams of events and logs end here; a short answer, as the one to /shutdown, is finished.
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), 200*time.Millisecond)
		defer cancel()
		if srv.Shutdown(soon) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-ended
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), err)
	}
	return nil
}

// endWhenIdle ends the node when it has had no pod and no call for Config.IdleExit.
func (n *Node) endWhenIdle(ctx context.Context, end func()) {
	tick := time.NewTicker(min(n.cfg.IdleExit/4+time.Millisecond, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if n.active.quiet(now) >= n.cfg.IdleExit && n.idle() {
				n.cfg.Log.Info("node is idle: it ends", "after", n.cfg.IdleExit)
				end()
				return
			}
		}
	}
}
