package cni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/sys"
)

// current reads the folder, and tells when the network is another than before.
func (n *Network) current() (*libcni.NetworkConfigList, error) {
	list, skipped, err := n.cfg.load()
	words := fmt.Sprint(skipped, err)
	if err == nil {
		words = fmt.Sprint(skipped, string(list.Bytes))
	}
	n.mu.Lock()
	news := n.told != words
	n.told = words
	n.mu.Unlock()
	if !news {
		return list, err
	}
	for _, bad := range skipped {
		n.log.Warn("a CNI configuration is passed over", "error", bad)
	}
	if err == nil {
		n.log.Info("pods are attached to the CNI network", "network", list.Name, "folder", n.cfg.ConfDir)
	}
	return list, err
}

// statusTime is how long plugins may think about STATUS: a kubelet asks every few seconds, and waits.
const statusTime = 1500 * time.Millisecond

// Ready asks the plugins of the network for their STATUS, if it is of version 1.1 or later, and looks whether
// they are installed, if it is not.
func (n *Network) Ready(ctx context.Context) error {
	list, err := n.current()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.patience)
	defer cancel()
	run := &runner{timeout: n.patience}
	for _, p := range list.Plugins {
		if _, err := run.FindInPath(p.Network.Type, n.cfg.BinDirs); err != nil {
			return fmt.Errorf("network %s: %w", list.Name, err)
		}
	}
	if err := libcni.NewCNIConfig(n.cfg.BinDirs, run).GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	return nil
}

// collect tells the plugins which sandboxes there are, so that they free what belongs to none (GC of version
// 1.1). A network that others use too must say so in its configuration (disableGC).
func (n *Network) collect(ctx context.Context) error {
	list, err := n.current()
	if errors.Is(err, ErrNoNetwork) {
		return nil
	}
	if err != nil {
		return err
	}
	all, damaged, err := n.records.list()
	if err != nil || len(damaged) > 0 {
		return err // what a damaged record stands for may live
	}
	valid := []types.GCAttachment{}
	for _, a := range all {
		if a.Network.Name == list.Name {
			valid = append(valid, types.GCAttachment{ContainerID: a.ID, IfName: podInterface})
		}
	}
	// Not in a sandbox's folder: libcni finds no attachments of its own there, and leaves DEL to us.
	c := libcni.NewCNIConfigWithCacheDir(n.cfg.BinDirs, n.records.folder(".none"), &runner{timeout: n.cfg.Timeout})
	return c.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid})
}

// List reads what is written down of each sandbox.
func (n *Network) List(context.Context) ([]network.Attachment, error) {
	all, _, err := n.records.list()
	if err != nil {
		return nil, fmt.Errorf("list CNI attachments: %w", err)
	}
	var out []network.Attachment
	for _, a := range all {
		v := network.Attachment{
			SandboxID: a.ID, Network: a.Network.Name, State: a.State, NetNS: a.NetNS, Interface: podInterface,
			Ports: a.Ports, Bandwidth: a.Bandwidth,
		}
		if a.Result != nil {
			v.HostInterface, v.Addresses = a.Result.HostInterface, a.Result.Addresses
		}
		out = append(out, v)
	}
	return out, nil
}

// Check compares the record of a sandbox with its namespace, and has the plugins CHECK theirs.
func (n *Network) Check(ctx context.Context, id string) ([]network.Problem, error) {
	unlock, err := n.Lock(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: %w", id, err)
	}
	defer unlock()
	a, err := n.records.read(id)
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: it is not attached to the CNI network: %w", id, err)
	}
	if a.State != attached {
		what := "the sandbox is " + a.State
		if a.Refused != "" {
			what += "; the plugins refused DEL: " + a.Refused
		}
		return []network.Problem{{What: what, Remedy: "DEL is asked for again and again: mend the plugin, or what it needs"}}, nil
	}
	if !n.Pins.Pinned(id) {
		return []network.Problem{network.NoNamespace(a.NetNS)}, nil
	}
	problems := look(a)
	list, err := a.Network.list()
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: %w", id, err)
	}
	witness, err := n.records.hold(ctx, id, n.cfg.Timeout, n.log)
	if err != nil {
		return nil, fmt.Errorf("check sandbox %s: %w", id, err)
	}
	defer witness.Close()
	err = n.plugins(id, witness).CheckNetworkList(ctx, list, a.runtimeConf(a.NetNS))
	if err != nil && !errors.Is(err, libcni.ErrorCheckNotSupp) {
		problems = append(problems, network.Problem{What: "the plugins of " + list.Name + " say at CHECK: " + err.Error()})
	}
	return problems, nil
}

// look compares what the plugins said at ADD with the namespace.
func look(a *attachment) []network.Problem {
	ns, err := sys.OpenNetNS(a.NetNS)
	if err != nil {
		return []network.Problem{network.NoNamespace(a.NetNS)}
	}
	defer ns.Close()
	// Routes are for the plugins to CHECK: which there should be depends on each.
	return network.LookInside(ns, podInterface, a.Result.Addresses, nil)
}
