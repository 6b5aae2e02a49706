package firewall

import (
	"encoding/binary"
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
	const accept = -2
	for _, l := range []legacyLayout{legacy4, legacy6} {
		for what, c := range map[string]struct {
			policy  int32
			in, out string
			inverse byte
			want    bool
		}{
			"accepts":                 {accept, "", "", 0, false},
			"drops":                   {verdictDrop, "", "", 0, true},
			"from the bridge":         {verdictDrop, "berth0", "", 0, false},
			"to the bridge":           {verdictDrop, "", "berth0", 0, false},
			"all of ours":             {verdictDrop, "berth+", "", 0, false},
			"all but the bridge":      {verdictDrop, "berth0", "", 1, true},
			"another bridge":          {verdictDrop, "berth01", "", 0, true},
			"a name that begins so":   {verdictDrop, "berth", "", 0, true},
			"others":                  {verdictDrop, "docker+", "eth0", 0, true},
			"not to others, but ours": {verdictDrop, "berth0", "eth0", 2, false},
		} {
			rule, policy := l.rule(c.in, c.out, c.inverse, accept), l.rule("", "", 0, c.policy)
			table := &sys.LegacyTable{Hooks: 1 << hookForward, Rules: append(rule, policy...)}
			table.Policy[hookForward] = uint32(len(rule))
			if got, err := l.drops(table, "berth0"); got != c.want || err != nil {
				t.Errorf("%s, %s: %t, %v", l.command, what, got, err)
			}
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
		if drops, err := l.drops(table, "berth0"); drops && err != nil {
			t.Fatal("both")
		}
	})
}
