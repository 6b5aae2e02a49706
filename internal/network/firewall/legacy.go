package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/11f9778f/berth/internal/sys"
)

// LegacyDropping names the commands of legacy iptables whose chain FORWARD drops what no rule lets pass, and whose table has no
// rule for the bridge: what Dropping tells of nftables. It looks at the calling thread's network namespace, executes nothing,
// and makes no table where there is none.
func (t *Table) LegacyDropping() ([]string, error) {
	var out []string
	for _, l := range []legacyLayout{legacy4, legacy6} {
		table, err := sys.LegacyFilter(l.v6)
		if err != nil {
			return out, err
		}
		if table == nil {
			continue
		}
		drops, err := l.drops(table, t.bridge)
		if err != nil {
			return out, fmt.Errorf("%s: %w", l.command, err)
		}
		if drops {
			out = append(out, l.command)
		}
	}
	return out, nil
}

// legacyLayout is where things are in a rule: struct ipt_entry and ip6t_entry of linux/netfilter_ipv4/ip_tables.h and
// netfilter_ipv6/ip6_tables.h. After the names of the interfaces come their masks.
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
)

var errLegacy = errors.New("the kernel's table is not what it should be")

// drops tells whether the chain FORWARD drops by its policy, and no rule of the table has the bridge's name.
func (l legacyLayout) drops(t *sys.LegacyTable, bridge string) (bool, error) {
	if t.Hooks&(1<<hookForward) == 0 {
		return false, nil
	}
	verdict, err := l.verdict(t.Rules, t.Policy[hookForward])
	if err != nil || verdict != verdictDrop {
		return false, err
	}
	for rest := t.Rules; len(rest) > 0; {
		if len(rest) < l.size {
			return false, errLegacy
		}
		next := int(binary.NativeEndian.Uint16(rest[l.next:]))
		if next < l.size || next > len(rest) {
			return false, errLegacy
		}
		if l.names(rest, bridge) {
			return false, nil
		}
		rest = rest[next:]
	}
	return true, nil
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
