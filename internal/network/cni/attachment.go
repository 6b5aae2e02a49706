package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/netns"
)

// States of an attachment, in the order that it goes through them.
const (
	attaching = "attaching" // ADD may have happened, in part
	attached  = "attached"  // every plugin has acknowledged ADD
	detaching = "detaching" // DEL may have happened, in part
)

const podInterface = "eth0"

// attachment is the record of a sandbox on the network: enough to call the plugins again, as they were called,
// after the daemon, the configuration and the machine's boot are gone.
type attachment struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	// Boot is the boot of the machine that the namespace is of.
	Boot  string `json:"boot"`
	State string `json:"state"`
	NetNS string `json:"netns"`
	// Network is the configuration that the sandbox was attached by.
	Network savedList `json:"network"`
	// Args are CNI_ARGS, Capabilities what goes to plugins that have the capability.
	Args         [][2]string    `json:"args"`
	Capabilities map[string]any `json:"capabilities"`
	// Ports and Bandwidth are what was asked for, for people.
	Ports     []string          `json:"ports,omitempty"`
	Bandwidth network.Bandwidth `json:"bandwidth,omitzero"`
	// Result is what ADD gave, nil before.
	Result *network.Result `json:"result,omitempty"`
	// Refused is what the last DEL has failed with.
	Refused string `json:"refused,omitempty"`
}

const recordVersion = 1

// savedList is a libcni.NetworkConfigList with the plugins of other files in it.
type savedList struct {
	Name         string            `json:"name"`
	CNIVersion   string            `json:"cniVersion"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`
}

func save(l *libcni.NetworkConfigList) savedList {
	s := savedList{Name: l.Name, CNIVersion: l.CNIVersion, DisableCheck: l.DisableCheck}
	for _, p := range l.Plugins {
		s.Plugins = append(s.Plugins, json.RawMessage(p.Bytes))
	}
	return s
}

// list is the inverse of save.
func (s savedList) list() (*libcni.NetworkConfigList, error) {
	all, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	l := &libcni.NetworkConfigList{Name: s.Name, CNIVersion: s.CNIVersion, DisableCheck: s.DisableCheck, Bytes: all}
	for _, b := range s.Plugins {
		p, err := libcni.NetworkPluginConfFromBytes(b)
		if err != nil {
			return nil, err
		}
		l.Plugins = append(l.Plugins, p)
	}
	return l, checkList(l)
}

// runtimeConf is what libcni calls the arguments of a call. netns is empty where the namespace is gone.
func (a *attachment) runtimeConf(netns string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: a.ID, NetNS: netns, IfName: podInterface, Args: a.Args, CapabilityArgs: a.Capabilities}
}

// parseAttachment reads a record and checks all that is used of it.
func parseAttachment(b []byte) (*attachment, error) {
	var a attachment
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&a); err != nil {
		return nil, err
	}
	if a.Version != recordVersion {
		return nil, fmt.Errorf("version is %d, want %d", a.Version, recordVersion)
	}
	if err := netns.CheckID(a.ID); err != nil {
		return nil, err
	}
	switch a.State {
	case attaching, attached, detaching:
	default:
		return nil, fmt.Errorf("state %q", a.State)
	}
	if a.State == attached && a.Result == nil {
		return nil, errors.New("it is attached and has no result")
	}
	_, err := a.Network.list()
	return &a, err
}

// resultOf reads what ADD gave: the addresses of the pod's interface, IPv4 first.
func resultOf(r types.Result) (*network.Result, error) {
	if r == nil {
		return nil, errors.New("the plugins gave no result")
	}
	res, err := current.NewResultFromResult(r)
	if err != nil {
		return nil, err
	}
	out := &network.Result{Interface: podInterface}
	for n, i := range res.Interfaces {
		switch {
		case i == nil:
			return nil, fmt.Errorf("the result of the plugins: interfaces[%d] is null", n)
		case i.Sandbox == "":
			out.HostInterface = i.Name // a bridge comes before the pod's end of a pair
		case i.Name == podInterface:
			out.MTU = i.Mtu
			if out.MAC, err = net.ParseMAC(i.Mac); i.Mac != "" && err != nil {
				return nil, fmt.Errorf("the result of the plugins: interfaces[%d].mac: %w", n, err)
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		for n, ip := range res.IPs {
			if err := addAddress(out, res, n, ip, v6); err != nil {
				return nil, fmt.Errorf("the result of the plugins: ips[%d]: %w", n, err)
			}
		}
	}
	if len(out.IPs) == 0 {
		return nil, errors.New("the plugins say that all is well, and gave the pod no address: is there an ipam in the configuration?")
	}
	return out, nil
}

// addAddress adds the n-th address of a result, if it is of the family and of the pod's interface.
func addAddress(out *network.Result, res *current.Result, n int, ip *current.IPConfig, v6 bool) error {
	if ip == nil {
		return errors.New("it is null")
	}
	if i := ip.Interface; i != nil {
		if *i < 0 || *i >= len(res.Interfaces) {
			return fmt.Errorf("interface: there is no interfaces[%d]", *i)
		}
		if of := res.Interfaces[*i]; of.Sandbox == "" || of.Name != podInterface {
			return nil
		}
	}
	addr, ok := netip.AddrFromSlice(ip.Address.IP)
	addr = addr.Unmap()
	bits, size := ip.Address.Mask.Size()
	if !ok || size != addr.BitLen() || addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() {
		return fmt.Errorf("address: %s is none that a pod can have", ip.Address.String())
	}
	if addr.Is6() != v6 {
		return nil
	}
	gateway, _ := netip.AddrFromSlice(ip.Gateway)
	out.Addresses = append(out.Addresses, netip.PrefixFrom(addr, bits))
	out.IPs = append(out.IPs, addr)
	out.Gateways = append(out.Gateways, gateway.Unmap())
	return nil
}
