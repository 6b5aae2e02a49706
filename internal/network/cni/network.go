package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/sys"
	"github.com/11f9778f/berth/internal/trace"
)

// Network is the network of one daemon, made by CNI plugins. Its methods may be called from several goroutines.
type Network struct {
	netns.Keeper

	cfg      Config
	log      *slog.Logger
	records  ledger
	boot     string
	patience time.Duration // for STATUS
	lock     *os.File      // held as long as the Network is open

	mu      sync.Mutex
	subnets []netip.Prefix // for the capability ipRanges; from SetSubnets
	told    string         // what was last said of the configuration
	holders holders        // of addresses

	retry retry
}

var _ network.Network = (*Network)(nil)

// Open makes a Network from what an earlier one with this state directory left. Sandboxes of this boot stay
// attached; those of an earlier one are detached, beside everything else and until the plugins agree. That the
// folder has no configuration yet is no error of Open: see Ready.
func Open(cfg Config) (*Network, error) {
	n, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open CNI network: %w", err)
	}
	return n, nil
}

func open(cfg Config) (*Network, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Network{
		Keeper: netns.Keeper{Pins: netns.Dir(filepath.Join(cfg.RunDir, "netns"))},
		cfg:    cfg, log: cfg.Logger, records: ledger(cfg.StateDir), boot: network.BootID(), patience: statusTime,
		holders: holders{},
	}
	folder := filepath.Join(cfg.RunDir, "network")
	for _, dir := range []string{cfg.StateDir, folder, string(n.Pins)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if n.lock, err = lockFolder(folder); err != nil {
		return nil, fmt.Errorf("another process has the run directory %s: %w", cfg.RunDir, err)
	}
	if n.subnets, err = network.Remembered(n.subnetsFile()); err != nil {
		n.log.Warn("the pod subnets that were set last are forgotten", "error", err)
	}
	if err := n.recallHolders(); err != nil {
		n.lock.Close()
		return nil, err
	}
	n.startRetry()
	return n, nil
}

// lockFolder makes this the one process that has the folder. A plugin that a dead daemon was just starting has its lock for a moment
// more, until it executes.
func lockFolder(dir string) (f *os.File, err error) {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f, err = sys.LockFile(filepath.Join(dir, "lock"))
		if !errors.Is(err, sys.ErrLocked) || time.Now().After(deadline) {
			return f, err
		}
	}
}

// Close ends the Network. Sandboxes stay attached.
func (n *Network) Close() error {
	n.retry.end()
	if err := n.lock.Close(); err != nil {
		return fmt.Errorf("close CNI network: %w", err)
	}
	return nil
}

// plugins is libcni for one operation on a sandbox: what it keeps of ADD goes into the sandbox's own folder.
func (n *Network) plugins(id string, witness *os.File) *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.cfg.BinDirs, n.records.folder(id), &runner{timeout: n.cfg.Timeout, witness: witness})
}

// Attach calls every plugin of the network with ADD. Repeated for a sandbox that is attached it returns the
// same result; what an earlier one left half-done is taken back first. Where it fails, DEL has been called.
func (n *Network) Attach(ctx context.Context, r network.Request) (*network.Result, error) {
	defer trace.Start(ctx, "network.attach")()
	fail := func(err error) (*network.Result, error) {
		return nil, fmt.Errorf("attach sandbox %s to the CNI network: %w", r.SandboxID, err)
	}
	unlock, err := n.Lock(ctx, r.SandboxID)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	switch a, err := n.records.read(r.SandboxID); {
	case err == nil && a.State == attached && a.Boot == n.boot:
		return a.Result, nil
	case err == nil:
		if err := n.remove(ctx, a); err != nil {
			return fail(err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fail(err)
	}
	a, list, err := n.prepare(r)
	if err == nil {
		err = n.records.write(a)
	}
	if err != nil {
		return fail(err)
	}
	if err := n.add(ctx, a, list); err != nil {
		// Under a context of its own: the caller may have gone, which must not cost an address.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Timeout)
		defer cancel()
		return fail(errors.Join(err, n.remove(undo, a)))
	}
	return a.Result, nil
}

// prepare says what is to be asked of whom.
func (n *Network) prepare(r network.Request) (*attachment, *libcni.NetworkConfigList, error) {
	list, err := n.current()
	if err != nil {
		return nil, nil, err
	}
	args, err := podArgs(r)
	if err != nil {
		return nil, nil, err
	}
	a := &attachment{
		Version: recordVersion, ID: r.SandboxID, Boot: n.boot, State: attaching, NetNS: r.NetNS,
		Network: save(list), Args: args, Capabilities: capabilityArgs(r, n.Subnets()), Bandwidth: r.Bandwidth,
	}
	for _, p := range portMappings(r.PortMappings) {
		a.Ports = append(a.Ports, p.String())
	}
	for what, missing := range map[string]bool{
		"portMappings": len(a.Ports) > 0, "bandwidth": a.Bandwidth != (network.Bandwidth{}), "ips": len(r.IPs) > 0,
	} {
		if missing && !hasCapability(list, what) {
			n.log.Warn("a pod asks for what no plugin of the network can do: it goes without", "capability", what,
				"network", list.Name, "sandbox", r.SandboxID, "pod", r.PodNamespace+"/"+r.PodName)
		}
	}
	return a, list, nil
}

func hasCapability(list *libcni.NetworkConfigList, capability string) bool {
	for _, p := range list.Plugins {
		if p.Network.Capabilities[capability] {
			return true
		}
	}
	return false
}

// add calls the plugins and writes down what they gave.
func (n *Network) add(ctx context.Context, a *attachment, list *libcni.NetworkConfigList) error {
	defer trace.Start(ctx, "network.cni.add")()
	witness, err := n.records.hold(ctx, a.ID, n.cfg.Timeout, n.log)
	if err != nil {
		return err
	}
	defer witness.Close()
	if err := failpoint.Here("network/cni/add/before"); err != nil {
		return err
	}
	res, err := n.plugins(a.ID, witness).AddNetworkList(ctx, list, a.runtimeConf(a.NetNS))
	if err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	if err := failpoint.Here("network/cni/add/after"); err != nil {
		return err
	}
	if a.Result, err = resultOf(res); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	if err := n.claim(a); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	if problems := look(a); len(problems) > 0 {
		n.log.Warn("the plugins say that all is well, and the namespace says otherwise", "network", list.Name, "sandbox", a.ID, "problem", problems[0].What)
	}
	a.State = attached
	return n.records.write(a)
}

// Detach calls every plugin with DEL, by the configuration that the sandbox was attached by, and forgets the
// sandbox when all have acknowledged. An unknown sandbox is success.
func (n *Network) Detach(ctx context.Context, id string) error {
	defer trace.Start(ctx, "network.detach")()
	unlock, err := n.Lock(ctx, id)
	if err != nil {
		return fmt.Errorf("detach sandbox %s from the CNI network: %w", id, err)
	}
	defer unlock()
	if err := n.detachLocked(ctx, id); err != nil {
		return fmt.Errorf("detach sandbox %s from the CNI network: %w", id, err)
	}
	return nil
}

// detachLocked is Detach for who has id's lock.
func (n *Network) detachLocked(ctx context.Context, id string) error {
	a, err := n.records.read(id)
	if errors.Is(err, fs.ErrNotExist) {
		n.disclaim(id)
		return n.records.drop(id)
	}
	if err != nil {
		return err
	}
	return n.remove(ctx, a)
}

// remove is the DEL of a whole chain. What fails is written down and asked for again.
func (n *Network) remove(ctx context.Context, a *attachment) error {
	defer trace.Start(ctx, "network.cni.del")()
	n.disclaim(a.ID)
	if a.State != detaching {
		a.State = detaching
		if err := n.records.write(a); err != nil {
			return err
		}
	}
	err := n.del(ctx, a)
	if err == nil {
		return n.records.drop(a.ID)
	}
	n.retry.wake()
	a.Refused = strings.ReplaceAll(err.Error(), "\n", "; ")
	return errors.Join(err, n.records.write(a))
}

// del calls each plugin, the last of the chain first, whatever the others answer: libcni itself would stop at
// the first that fails.
func (n *Network) del(ctx context.Context, a *attachment) error {
	list, err := a.Network.list()
	if err != nil {
		return err
	}
	witness, err := n.records.hold(ctx, a.ID, n.cfg.Timeout, n.log)
	if err != nil {
		return err
	}
	defer witness.Close()
	if err := failpoint.Here("network/cni/del/before"); err != nil {
		return err
	}
	c := n.plugins(a.ID, witness)
	path := a.NetNS
	if !n.Pins.Pinned(a.ID) {
		path = "" // gone: plugins then free what they keep elsewhere
	}
	conf := a.runtimeConf(path)
	result, err := c.GetNetworkListCachedResult(list, conf)
	if err != nil {
		n.log.Warn("what the plugins gave is not known any more: they are called without it", "sandbox", a.ID, "error", err)
	}
	var errs []error
	for i := len(list.Plugins) - 1; i >= 0; i-- {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			ctx = context.WithoutCancel(ctx) // one that hangs has used up the caller's time: the others have their own
		}
		errs = append(errs, delPlugin(ctx, n.cfg.BinDirs, &runner{timeout: n.cfg.Timeout, witness: witness}, list, list.Plugins[i], result, conf))
	}
	return errors.Join(append(errs, failpoint.Here("network/cni/del/after"))...)
}
