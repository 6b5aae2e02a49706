package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/11f9778f/berth/internal/sys"
)

// LegacyDropping names the commands of legacy iptables whose chain FORWARD drops what no rule lets pass, and whose table has no
// rule that lets the bridge or its subnets pass: what Dropping tells of nftables. It looks at the calling thread's network
// namespace, executes nothing, and makes no table where there is none. What it has found stands beside an error.
func (t *Table) LegacyDropping(subnets []netip.Prefix) (out []string, err error) {
	for _, l := range []legacyLayout{legacy4, legacy6} {
		table, lerr := sys.LegacyFilter(l.v6)
		drops := false
		if lerr == nil && table != nil {
			drops, lerr = l.drops(table, t.bridge, subnets)
		}
		if lerr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", l.command, lerr))
		}
		if drops {
			out = append(out, l.command)
		}
	}
	return out, err
}

// legacyLayout is where things are in a rule: struct ipt_entry and ip6t_entry of linux/netfilter_ipv4/ip_tables.h and
// netfilter_ipv6/ip6_tables.h. It begins with the addresses from and to and their masks; after the names of the interfaces come
// their masks, and then the protocol.
type legacyLayout struct {
	command             string
	v6                  bool
	size                int // of a rule without matches and target
	interfaces, inverse int
	target, next        int // offsets, each of 16 bits, from the rule's begin
}

var (
	legacy4 = legacyLayout{command: "iptables-legacy", size: 112, interfaces: 16, inverse: 83, target: 88, next: 90}
	legacy6 = legacyLayout{command: "ip6tables-legacy", v6: true, size: 168, interfaces: 64, inverse: 132, target: 140, next: 142}
)

const (
	hookForward   = 2  // NF_INET_FORWARD
	interfaceName = 16 // IFNAMSIZ
	targetHead    = 32 // struct xt_entry_target; the verdict follows
	verdictDrop   = ^0 // -NF_DROP - 1
	verdictAccept = ^1 // -NF_ACCEPT - 1; one that is not negative is a chain's offset
	onlyFragments = 1  // IPT_F_FRAG; for IPv6 IP6T_F_PROTO, a condition as well
)

var errLegacy = errors.New("the kernel's table is not what it should be")

// drops tells whether the chain FORWARD drops by its policy, and no rule lets pass what is the bridge's: one with its name in
// FORWARD or in a chain of the user's, or one of FORWARD for all packets or for those of the subnets.
func (l legacyLayout) drops(t *sys.LegacyTable, bridge string, subnets []netip.Prefix) (bool, error) {
	if t.Hooks&(1<<hookForward) == 0 {
		return false, nil
	}
	verdict, err := l.verdict(t.Rules, t.Policy[hookForward])
	if err != nil || verdict != verdictDrop {
		return false, err
	}
	var users uint32 // behind the last chain that has a hook come the user's
	for hook, policy := range t.Policy {
		if t.Hooks&(1<<hook) != 0 {
			users = max(users, policy)
		}
	}
	for at := 0; at < len(t.Rules); {
		rule := t.Rules[at:]
		if len(rule) < l.size {
			return false, errLegacy
		}
		next := int(binary.NativeEndian.Uint16(rule[l.next:]))
		if next < l.size || next > len(rule) {
			return false, errLegacy
		}
		forward := at >= int(t.Entry[hookForward]) && at < int(t.Policy[hookForward])
		if (forward || at > int(users)) && l.passes(rule) && (l.names(rule, bridge) || forward && l.covers(rule, subnets)) {
			return false, nil
		}
		at += next
	}
	return true, nil
}

// passes tells whether a rule accepts, or asks another chain.
func (l legacyLayout) passes(rule []byte) bool {
	verdict, err := l.verdict(rule, 0)
	return err == nil && (verdict == verdictAccept || verdict >= 0)
}

// covers tells whether a rule accepts on no condition but one address, and that is of a network with one of the subnets in it.
func (l legacyLayout) covers(rule []byte, subnets []netip.Prefix) bool {
	if verdict, err := l.verdict(rule, 0); err != nil || verdict != verdictAccept {
		return false
	}
	masks := l.interfaces + 2*interfaceName
	conditions := slices.Concat(rule[masks:masks+2*interfaceName+2], // of the interfaces, and the protocol
		[]byte{rule[l.inverse-1] & onlyFragments, rule[l.inverse]})
	matches := int(binary.NativeEndian.Uint16(rule[l.target:])) != l.size // conditions of modules, before the target
	if matches || slices.ContainsFunc(conditions, func(b byte) bool { return b != 0 }) {
		return false
	}
	from, to := l.network(rule, 0), l.network(rule, 1)
	if to.Bits() != 0 {
		from, to = to, from
	}
	return to.Bits() == 0 && (from.Bits() == 0 || slices.ContainsFunc(subnets, func(s netip.Prefix) bool {
		return from.Bits() <= s.Bits() && from.Contains(s.Addr())
	}))
}

// network is where a packet of a rule comes from (0) or goes to (1). It is invalid for a mask with holes.
func (l legacyLayout) network(rule []byte, which int) netip.Prefix {
	n := l.interfaces / 4
	addr, _ := netip.AddrFromSlice(rule[which*n:][:n])
	if ones, bits := net.IPMask(rule[(2+which)*n:][:n]).Size(); bits > 0 {
		return netip.PrefixFrom(addr, ones)
	}
	return netip.Prefix{}
}

// verdict is what the rule at an offset, of the standard target, does.
func (l legacyLayout) verdict(rules []byte, at uint32) (int32, error) {
	if uint64(at)+uint64(l.size) > uint64(len(rules)) {
		return 0, errLegacy
	}
	rule := rules[at:]
	target := int(binary.NativeEndian.Uint16(rule[l.target:]))
	if target < l.size || target+targetHead+4 > len(rule) || rule[target+2] != 0 {
		return 0, errLegacy
	}
	return int32(binary.NativeEndian.Uint32(rule[target+targetHead:])), nil
}

// names tells whether a rule is for packets from or to the bridge.
func (l legacyLayout) names(rule []byte, bridge string) bool {
	want := append([]byte(bridge), 0)
	for i := range 2 { // from, to
		name := rule[l.interfaces+i*interfaceName:][:interfaceName]
		mask := rule[l.interfaces+(2+i)*interfaceName:][:interfaceName]
		n := bytes.IndexByte(mask, 0)
		if n < 0 {
			n = interfaceName
		}
		// The mask covers the name with its zero, or what is before a "+".
		if n > 0 && n <= len(want) && bytes.Equal(name[:n], want[:n]) && rule[l.inverse]&(1<<i) == 0 {
			return true
		}
	}
	return false
}
