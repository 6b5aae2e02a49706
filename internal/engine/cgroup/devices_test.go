package cgroup

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/sys"
)

// containerRules are what a runtime gives an ordinary container.
func containerRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"}, {Allow: true, Type: "b", Access: "m"}}
	for _, n := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, wildcard}} {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(n[0]), Minor: ptr(n[1]), Access: "rwm"})
	}
	return rules
}

func allowAll() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
}

func TestDevicePolicy(t *testing.T) {
	rule := func(allow bool, kind string, major, minor int64, acc string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: acc}
	}
	tests := []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		allow bool
		want  string // exceptions
		err   string
	}{
		{name: "nothing denies"},
		{name: "allow all", rules: allowAll(), allow: true},
		{name: "no type, no access", rules: []specs.LinuxDeviceCgroup{{Allow: true}}, allow: true},
		{name: "union", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "r"), rule(true, "c", 1, 3, "w")}, want: "c 1:3 rw"},
		{name: "taken back", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rwm"), rule(false, "c", 1, 3, "w")}, want: "c 1:3 mr"},
		{name: "wildcard takes back", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rw"), rule(true, "b", 1, 3, "rw"), rule(false, "c", 1, -1, "rwm")}, want: "b 1:3 rw"},
		{name: "hole", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, -1, "rw"), rule(false, "c", 1, 3, "w")}, err: "hole"},
		{name: "a with numbers is both", rules: []specs.LinuxDeviceCgroup{rule(true, "a", 1, 3, "r")}, want: "b 1:3 r,c 1:3 r"},
		{name: "exceptions from permission", rules: append(allowAll(), rule(false, "c", 10, 200, "rw")), allow: true, want: "c 10:200 rw"},
		{name: "reset", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rw"), {Allow: false, Type: "a", Access: "rwm"}}},
		{name: "bad type", rules: []specs.LinuxDeviceCgroup{rule(true, "p", 1, 3, "rw")}, err: `"p"`},
		{name: "bad access", rules: []specs.LinuxDeviceCgroup{rule(true, "c", 1, 3, "rx")}, err: `"rx"`},
		{name: "bad number", rules: []specs.LinuxDeviceCgroup{rule(true, "c", -2, 3, "r")}, err: "-2"},
	}
	for _, tt := range tests {
		p, err := newDevicePolicy(tt.rules)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %s", tt.name, err, tt.err)
			}
			continue
		}
		var got []string
		for _, id := range p.sorted() {
			got = append(got, id.line(p.exceptions[id]))
		}
		want := strings.NewReplacer(" rwm", " mrw").Replace(tt.want)
		if err != nil || p.allow != tt.allow || strings.Join(got, ",") != want {
			t.Errorf("%s: allow %v, %q, %v", tt.name, p.allow, got, err)
		}
	}
}

func TestDevicesOfARunningGroup(t *testing.T) {
	g := create(t, parent(t)+"/c")
	h := g.h.byController["devices"]
	steps := []struct {
		name  string
		rules []specs.LinuxDeviceCgroup
		open  map[string]string
	}{
		{"deny all", []specs.LinuxDeviceCgroup{{Access: "rwm"}}, map[string]string{"/dev/zero": "EPERM", "/dev/full": "EPERM"}},
		{"container", containerRules(), map[string]string{"/dev/zero": "opened", "/dev/full": "opened", "/dev/kmsg": "EPERM"}},
		{"less", containerRules()[:5], map[string]string{"/dev/zero": "opened", "/dev/full": "EPERM", "/dev/kmsg": "EPERM"}},
		{"all but one", append(allowAll(), specs.LinuxDeviceCgroup{Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "r"}),
			map[string]string{"/dev/zero": "EPERM", "/dev/full": "opened", "/dev/kmsg": "opened"}},
		{"all", allowAll(), map[string]string{"/dev/zero": "opened", "/dev/full": "opened", "/dev/kmsg": "opened"}},
	}
	for _, s := range steps {
		if err := g.Apply(&specs.LinuxResources{Devices: s.rules}); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		for _, dev := range slices.Sorted(maps.Keys(s.open)) {
			p := start(t, "open:"+dev)
			if err := g.Join(p.Process.Pid); err != nil {
				t.Fatal(err)
			}
			p.goOn(t)
			t.Log(s.name, dev)
			p.expect(t, s.open[dev])
		}
		if h == nil || h.V2 {
			continue
		}
		want, _ := newDevicePolicy(s.rules)
		have, err := parseDeviceList(content(t, h.dir.Path(g.rel+"/devices.list")))
		if err != nil || have.allow != want.allow || !want.allow && !maps.Equal(have.exceptions, want.exceptions) {
			t.Errorf("%s: kernel has %+v, %v; want %+v", s.name, have, err, want)
		}
	}
}

// The eBPF program, run by a small interpreter, decides as a plain reading of the policy.
func TestDeviceProgramAgainstPolicy(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	number := func() *int64 {
		return ptr([]int64{wildcard, 0, 1, 5, 136, 1<<31 - 1}[rng.IntN(6)])
	}
	for range 2000 {
		var rules []specs.LinuxDeviceCgroup
		for range rng.IntN(8) {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: rng.IntN(3) > 0, Type: []string{"a", "b", "c"}[rng.IntN(3)],
				Major: number(), Minor: number(), Access: access(1 + rng.IntN(7)).String()})
		}
		p, err := newDevicePolicy(rules)
		if err != nil {
			continue // a hole
		}
		code := p.program()
		for range 50 {
			kind := byte("bc"[rng.IntN(2)])
			major, minor := max(0, *number()), max(0, *number())
			acc := access(1 + rng.IntN(7))
			want := p.decide(deviceID{kind, major, minor}, acc)
			if got := runEBPF(t, code, kind, acc, uint32(major), uint32(minor)); got != want {
				t.Fatalf("rules %+v: %c %d:%d %s: program says %v, policy %v", rules, kind, major, minor, acc, got, want)
			}
		}
	}
}

func (p devicePolicy) decide(id deviceID, acc access) bool {
	for e, have := range p.exceptions {
		if e.covers(id) && (!p.allow && acc&^have == 0 || p.allow && acc&have != 0) {
			return !p.allow
		}
	}
	return p.allow
}

func runEBPF(t *testing.T, code []byte, kind byte, acc access, major, minor uint32) bool {
	t.Helper()
	k := uint32(kindChar)
	if kind == 'b' {
		k = kindBlock
	}
	memory := []uint32{uint32(acc)<<16 | k, major, minor}
	var reg [11]uint64
	for pc := 0; pc < len(code)/8; pc++ {
		i := code[pc*8:]
		dst, src := i[1]&0xf, i[1]>>4
		off := int(int16(uint16(i[2]) | uint16(i[3])<<8))
		imm := uint64(int64(int32(uint32(i[4]) | uint32(i[5])<<8 | uint32(i[6])<<16 | uint32(i[7])<<24)))
		switch i[0] {
		case opLoadWord:
			reg[dst] = uint64(memory[off/4])
		case opMove:
			reg[dst] = reg[src]
		case opMoveImm:
			reg[dst] = imm
		case opAndImm:
			reg[dst] &= imm
		case opShiftImm:
			reg[dst] >>= imm
		case opJumpEq:
			if reg[dst] == imm {
				pc += off
			}
		case opJumpNe:
			if reg[dst] != imm {
				pc += off
			}
		case opExit:
			return reg[0] == 1
		default:
			t.Fatalf("opcode %#x", i[0])
		}
	}
	t.Fatal("ran off the end")
	return false
}

// The kernel's verifier takes the programs, and a v2 group (a hybrid's too) obeys them.
func TestDeviceFilterInTheKernel(t *testing.T) {
	g := create(t, parent(t)+"/c")
	if g.h.v2 == nil {
		t.Skip("no cgroup v2 hierarchy is mounted")
	}
	for _, rules := range [][]specs.LinuxDeviceCgroup{containerRules(), allowAll(), {{Access: "rwm"}}, containerRules()} {
		p, err := newDevicePolicy(rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.setDevicesV2(p); err != nil {
			t.Fatal(err)
		}
	}
	for dev, want := range map[string]string{"/dev/zero": "opened", "/dev/kmsg": "EPERM"} {
		p := start(t, "open:"+dev)
		if err := g.Join(p.Process.Pid); err != nil {
			t.Fatal(err)
		}
		p.goOn(t)
		p.expect(t, want)
	}
}

func FuzzDeviceList(f *testing.F) {
	f.Add("a *:* rwm\n")
	f.Add("c 1:3 rw\nb *:* m\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseDeviceList(text)
		if err == nil && len(p.program())%8 != 0 {
			t.Error("broken program")
		}
	})
}

func BenchmarkLoadDeviceFilter(b *testing.B) {
	p, err := newDevicePolicy(containerRules())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f, err := sys.LoadDeviceFilter(p.program())
		if err != nil {
			b.Skip(err)
		}
		f.Close()
	}
}
