package book

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Errors that callers decide on.
var (
	ErrTaken   = errors.New("belongs to")      // somebody else has the port or the address
	ErrInvalid = errors.New("invalid request") // nobody could get that
	ErrFull    = errors.New("no address is free")
	ErrOther   = errors.New("the owner has other host ports, addresses or limits already")
)

// Port is a host port of an owner.
type Port struct {
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string `json:"protocol"`
	// HostIP is the one address of the host that the port is open on; the zero value means all.
	HostIP netip.Addr `json:"hostIP,omitzero"`
	// HostPort and ContainerPort are never 0.
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
}

// String returns "tcp 127.0.0.1:8080", with * for all addresses.
func (p Port) String() string {
	host := "*"
	if p.HostIP.IsValid() {
		host = p.HostIP.String()
	}
	return fmt.Sprintf("%s %s:%d", p.Protocol, host, p.HostPort)
}

// collides reports whether a packet could be meant for both.
func (p Port) collides(q Port) bool {
	return p.Protocol == q.Protocol && p.HostPort == q.HostPort &&
		(!p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP)
}

// holder names an entry's owner to whoever wants the same.
func (e Entry) holder() string {
	if e.Pod == "" {
		return "sandbox " + e.Owner
	}
	return fmt.Sprintf("pod %s (sandbox %s)", e.Pod, e.Owner)
}

// conflict says what of e belongs to somebody else.
func (b *Book) conflict(e Entry) error {
	for _, a := range e.Addresses {
		if owner, taken := b.byAddr[a.Addr()]; taken && owner != e.Owner {
			return fmt.Errorf("address %s belongs to %s", a.Addr(), b.entries[owner].holder())
		}
	}
	return b.portConflict(e.Owner, e.Ports)
}

func (b *Book) portConflict(owner string, ports []Port) error {
	for i, p := range ports {
		for _, q := range ports[:i] {
			if p.collides(q) {
				return fmt.Errorf("%w: host port %s is asked for twice by one pod", ErrInvalid, p)
			}
		}
		for _, other := range b.byPort[portKey{p.Protocol, p.HostPort}] {
			if other != owner && slices.ContainsFunc(b.entries[other].Ports, p.collides) {
				return fmt.Errorf("host port %s %w %s: choose another hostPort, or remove that pod", p, ErrTaken, b.entries[other].holder())
			}
		}
	}
	return nil
}

// satisfies tells whether an entry is what an owner asks for.
func (e Entry) satisfies(w Want) bool {
	has := func(ip netip.Addr) bool {
		return slices.ContainsFunc(e.Addresses, func(a netip.Prefix) bool { return a.Addr() == ip })
	}
	return slices.Equal(e.Ports, w.Ports) && e.Ingress == w.Ingress && e.Egress == w.Egress &&
		!slices.ContainsFunc(w.IPs, func(ip netip.Addr) bool { return !has(ip) })
}

// addressConflict says why one of the addresses can not be given.
func (b *Book) addressConflict(ips []netip.Addr) error {
	for _, ip := range ips {
		if owner, taken := b.byAddr[ip]; taken {
			return fmt.Errorf("address %s %w %s: choose another one, or remove that pod", ip, ErrTaken, b.entries[owner].holder())
		}
		in := func(p *pool) bool { return p.contains(ip) }
		if !slices.ContainsFunc(b.pools, in) {
			var subnets []string
			for _, p := range b.pools {
				subnets = append(subnets, fmt.Sprintf("%s to %s", p.first, p.last))
			}
			return fmt.Errorf("%w: %s is none of the pods' addresses, %s", ErrInvalid, ip, strings.Join(subnets, " and "))
		}
	}
	for _, p := range b.pools {
		if n := len(slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool { return !p.contains(ip) })); n > 1 {
			return fmt.Errorf("%w: a pod has one address of %s, and %d are asked for", ErrInvalid, p.subnet, n)
		}
	}
	return nil
}
