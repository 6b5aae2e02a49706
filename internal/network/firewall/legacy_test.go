package firewall

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/11f9778f/berth/internal/sys"
)

// legacyRule is a rule with the standard target.
func (l legacyLayout) rule(in, out string, inverse byte, verdict int32) []byte {
	b := make([]byte, l.size+targetHead+8)
	for i, name := range []string{in, out} {
		n := len(name) + 1
		if name == "" {
			n = 0
		} else if name[len(name)-1] == '+' {
			name, n = name[:len(name)-1], len(name)-1
		}
		copy(b[l.interfaces+i*interfaceName:], name)
		for j := range n {
			b[l.interfaces+(2+i)*interfaceName+j] = 0xff
		}
	}
	b[l.inverse] = inverse
	binary.NativeEndian.PutUint16(b[l.target:], uint16(l.size))
	binary.NativeEndian.PutUint16(b[l.next:], uint16(len(b)))
	binary.NativeEndian.PutUint32(b[l.size+targetHead:], uint32(verdict))
	return b
}

func TestLegacyDrops(t *testing.T) {
	for _, l := range []legacyLayout{legacy4, legacy6} {
		for what, c := range map[string]struct {
			policy  int32
			in, out string
			inverse byte
			want    bool
		}{
			"accepts":                 {verdictAccept, "", "", 0, false},
			"drops":                   {verdictDrop, "docker0", "", 0, true},
			"from the bridge":         {verdictDrop, "berth0", "", 0, false},
			"to the bridge":           {verdictDrop, "", "berth0", 0, false},
			"all of ours":             {verdictDrop, "berth+", "", 0, false},
			"all but the bridge":      {verdictDrop, "berth0", "", 1, true},
			"another bridge":          {verdictDrop, "berth01", "", 0, true},
			"a name that begins so":   {verdictDrop, "berth", "", 0, true},
			"others":                  {verdictDrop, "docker+", "eth0", 0, true},
			"not to others, but ours": {verdictDrop, "berth0", "eth0", 2, false},
		} {
			rule, policy := l.rule(c.in, c.out, c.inverse, verdictAccept), l.rule("", "", 0, c.policy)
			table := &sys.LegacyTable{Hooks: 1 << hookForward, Rules: append(rule, policy...)}
			table.Policy[hookForward] = uint32(len(rule))
			if got, err := l.drops(table, "berth0", nil); got != c.want || err != nil {
				t.Errorf("%s, %s: %t, %v", l.command, what, got, err)
			}
		}
	}
}

// among is a table as the kernel tells of it: INPUT, FORWARD and OUTPUT with a policy each, and a chain of the user's. Only the
// one that is named has the rule.
func (l legacyLayout) among(chain string, rule []byte) *sys.LegacyTable {
	t := &sys.LegacyTable{Hooks: 1<<1 | 1<<hookForward | 1<<3}
	for hook := range t.Policy {
		t.Entry[hook], t.Policy[hook] = math.MaxUint32, math.MaxUint32
	}
	add := func(name string, policy int32) uint32 {
		if name == chain {
			t.Rules = append(t.Rules, rule...)
		}
		t.Rules = append(t.Rules, l.rule("", "", 0, policy)...)
		return uint32(len(t.Rules) - l.size - targetHead - 8)
	}
	for i, name := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		t.Entry[1+i] = uint32(len(t.Rules))
		t.Policy[1+i] = add(name, map[bool]int32{true: verdictDrop, false: verdictAccept}[name == "FORWARD"])
	}
	head := l.rule("", "", 0, 0)
	copy(head[l.size+2:], "ERROR")
	t.Rules = append(t.Rules, head...)
	add("user", -5) // RETURN
	return t
}

// Only rules that let pass what is the bridge's count.
func TestLegacyDropsInChains(t *testing.T) {
	subnets := []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd88::/64")}
	for _, l := range []legacyLayout{legacy4, legacy6} {
		from := func(prefix4, prefix6 string) func([]byte) {
			p := netip.MustParsePrefix(map[bool]string{false: prefix4, true: prefix6}[l.v6])
			n := p.Addr().BitLen() / 8
			return func(rule []byte) {
				copy(rule, p.Addr().AsSlice())
				for i := range p.Bits() {
					rule[2*n+i/8] |= 0x80 >> (i % 8)
				}
			}
		}
		for _, c := range []struct {
			what, chain, in string
			verdict         int32
			change          func(rule []byte)
			want            bool
		}{
			{"the bridge's", "FORWARD", "berth0", verdictAccept, nil, false},
			{"the bridge's goes to a chain", "FORWARD", "berth0", 0, nil, false},
			{"the bridge's in a chain of the user's", "user", "berth0", verdictAccept, nil, false},
			{"the bridge's in INPUT", "INPUT", "berth0", verdictAccept, nil, true},
			{"the bridge's in OUTPUT", "OUTPUT", "berth0", verdictAccept, nil, true},
			{"the bridge's is dropped", "FORWARD", "berth0", verdictDrop, nil, true},
			{"the bridge's is left to the policy", "FORWARD", "berth0", -5, nil, true},
			{"the bridge's has another target", "FORWARD", "berth0", 0, func(r []byte) { copy(r[l.size+2:], "REJECT") }, true},
			{"all", "FORWARD", "", verdictAccept, nil, false},
			{"all in a chain of the user's", "user", "", verdictAccept, nil, true},
			{"all go to a chain", "FORWARD", "", 0, nil, true},
			{"all of a protocol", "FORWARD", "", verdictAccept, func(r []byte) { r[l.interfaces+4*interfaceName] = 6 }, true},
			{"fragments", "FORWARD", "", verdictAccept, func(r []byte) { r[l.inverse-1] = onlyFragments }, true},
			{"a network around the subnet", "FORWARD", "", verdictAccept, from("10.0.0.0/8", "fd00::/8"), false},
			{"the subnet", "FORWARD", "", verdictAccept, from("10.88.0.0/16", "fd88::/64"), false},
			{"not the subnet", "FORWARD", "", verdictAccept, func(r []byte) { from("10.88.0.0/16", "fd88::/64")(r); r[l.inverse] = 8 }, true},
			{"a part of the subnet", "FORWARD", "", verdictAccept, from("10.88.0.0/24", "fd88::/80"), true},
			{"another network", "FORWARD", "", verdictAccept, from("10.89.0.0/16", "fd89::/64"), true},
			{"the subnet, from another interface", "FORWARD", "eth0", verdictAccept, from("10.88.0.0/16", "fd88::/64"), true},
		} {
			rule := l.rule(c.in, "", 0, c.verdict)
			if c.change != nil {
				c.change(rule)
			}
			if got, err := l.drops(l.among(c.chain, rule), "berth0", subnets); got != c.want || err != nil {
				t.Errorf("%s, %s: %t, %v", l.command, c.what, got, err)
			}
		}
		matching := slices.Insert(l.rule("", "", 0, verdictAccept), l.size, make([]byte, 40)...)
		binary.NativeEndian.PutUint16(matching[l.target:], uint16(l.size+40))
		binary.NativeEndian.PutUint16(matching[l.next:], uint16(len(matching)))
		if got, err := l.drops(l.among("FORWARD", matching), "berth0", subnets); !got || err != nil {
			t.Errorf("%s, all that a module matches: %t, %v", l.command, got, err)
		}
	}
}

func FuzzLegacyDrops(f *testing.F) {
	f.Add(false, uint32(0), legacy4.rule("berth0", "", 0, verdictDrop))
	f.Add(true, uint32(0), legacy6.rule("", "eth+", 0, verdictDrop))
	f.Fuzz(func(t *testing.T, v6 bool, policy uint32, rules []byte) {
		l := legacy4
		if v6 {
			l = legacy6
		}
		table := &sys.LegacyTable{Hooks: 1 << hookForward, Rules: rules}
		table.Policy[hookForward] = policy
		if drops, err := l.drops(table, "berth0", []netip.Prefix{netip.MustParsePrefix("10.88.0.0/16"), netip.MustParsePrefix("fd88::/64")}); drops && err != nil {
			t.Fatal("both")
		}
	})
}
