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

	"github.com/11f9778f/berth/internal/cri"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/kubelet"
	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/runtime/machine"
	"github.com/11f9778f/berth/internal/shim/client"
	"github.com/11f9778f/berth/internal/sys"
)

// node is the daemon: its rooms, the lowest first.
type node struct {
	cfg     Config
	version string
	started time.Time
	lock    *os.File
	fresh   bool // the run directory had no node before

	store   *images
	network *network.Manager
	shims   *client.Manager
	runtime *runtime.Runtime
	cri     *cri.Server
	kubelet *kubelet.Kubelet

	active activity
}

// Run is the daemon. It returns nil when ctx has ended or a client asked for the end.
func Run(ctx context.Context, cfg Config, version string) error {
	n := &node{cfg: cfg.withDefaults(), version: version, started: time.Now()}
	n.active.last.Store(n.started.UnixNano())
	if err := n.claim(); err != nil {
		return err
	}
	if err := n.open(ctx); err != nil {
		return errors.Join(err, n.close())
	}
	n.cfg.Log.Info("node is up", "version", version, "root", cfg.Root, "run", cfg.Run, "bridge", n.cfg.Names.Bridge, "took", time.Since(n.started))
	err := n.serve(ctx)
	return errors.Join(err, n.close())
}

// maxSocketPath is the kernel's limit for the path of a unix socket, less what shims add to the run directory.
const maxSocketPath = 107 - len("/shims/0123456789abcdef/shim.sock")

// claim makes the folders and takes the run directory for this node alone.
func (n *node) claim() error {
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
	lock, err := lockRun(n.cfg.Run)
	if errors.Is(err, sys.ErrLocked) {
		return fmt.Errorf("another node is running on %s: use that one, end it, or choose other folders with --root and --run", n.cfg.Run)
	}
	n.lock = lock
	return err
}

// lockRun takes the run directory's lock. It tries for a moment: whoever asks whether a node died (Died)
// holds the lock for an instant, and a node that is ending lets go of it last.
func lockRun(run string) (*os.File, error) {
	for tries := 0; ; tries++ {
		lock, err := sys.LockFile(lockPath(run))
		if !errors.Is(err, sys.ErrLocked) || tries == 20 {
			return lock, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// open opens the rooms, the lowest first. What an earlier node left is taken over here.
func (n *node) open(ctx context.Context) error {
	store, err := image.Open(image.Config{Root: n.cfg.Root, PlainHTTP: n.cfg.PlainHTTP, Log: n.cfg.Log})
	if err != nil {
		return err
	}
	n.store = &images{Store: store, exe: n.cfg.Exe, log: n.cfg.Log}
	n.network, err = network.Open(network.Config{
		RunDir: n.cfg.Run, Bridge: n.cfg.Names.Bridge, Table: n.cfg.Names.Table, LinkPrefix: n.cfg.Names.LinkPrefix,
		Subnets: n.cfg.Subnets, Logger: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	n.shims, err = client.Open(ctx, client.Config{RunDir: n.cfg.Run, GroupSize: n.cfg.GroupSize, Spare: n.cfg.IdleExit == 0, Logger: n.cfg.Log})
	if err != nil {
		return err
	}
	n.runtime, err = runtime.Open(ctx, runtime.Config{
		RunDir: n.cfg.Run, CgroupParent: n.cfg.Names.CgroupParent,
		Images: machine.Images(store), Network: machine.Network(n.network), Shims: machine.Shims(n.shims), Kernel: machine.Kernel{},
		Logger: n.cfg.Log,
	})
	if err != nil {
		return err
	}
	n.cri, err = cri.New(cri.Config{Runtime: n.runtime, Images: n.store, SnapshotDir: filepath.Join(n.cfg.Root, "snapshots"), Version: n.version, Logger: n.cfg.Log})
	if err != nil {
		return err
	}
	n.kubelet, err = kubelet.New(kubelet.Config{
		Root: n.cfg.Root, NodeName: n.cfg.NodeName, CgroupParent: n.cfg.Names.CgroupParent,
		Runtime: n.cri, Images: imageService{n.cri}, Logger: n.cfg.Log,
	})
	return err
}

// serve answers on both sockets until ctx ends, somebody asks for the end, or the node is idle for
// too long.
func (n *node) serve(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	os.Remove(n.cfg.NodeSocket()) // of a node that died: the lock says that there is no other
	l, err := net.Listen("unix", n.cfg.NodeSocket())
	if err != nil {
		return fmt.Errorf("listen for the node API: %w", err)
	}
	srv := &http.Server{Handler: n.handler(n.kubelet.Handler()), ReadHeaderTimeout: 10 * time.Second}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer end() // the kubelet returns when a client asked for the end
		return n.kubelet.Run(gctx)
	})
	g.Go(func() error { return n.cri.Serve(gctx, n.cfg.CRISocket()) })
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the node API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		// Streams of events and logs end here; a short answer, as the one to /shutdown, is finished.
		soon, cancel := context.WithTimeout(context.WithoutCancel(gctx), 200*time.Millisecond)
		defer cancel()
		if srv.Shutdown(soon) != nil {
			return srv.Close()
		}
		return nil
	})
	if n.cfg.IdleExit > 0 {
		g.Go(func() error { n.endWhenIdle(gctx, end); return nil })
	}
	return g.Wait()
}

// endWhenIdle ends the node when it has had no pod and no call for Config.IdleExit.
func (n *node) endWhenIdle(ctx context.Context, end func()) {
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
