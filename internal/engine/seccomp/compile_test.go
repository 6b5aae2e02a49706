package seccomp

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// data is the kernel's struct seccomp_data.
type data struct {
	nr, arch uint32
	args     [6]uint64
}

// run interprets a program as the kernel would, and checks what its verifier checks.
func run(t testing.TB, prog []Instruction, d data) uint32 {
	t.Helper()
	mem := binary.LittleEndian.AppendUint32(nil, d.nr)
	mem = binary.LittleEndian.AppendUint32(mem, d.arch)
	mem = binary.LittleEndian.AppendUint64(mem, 0)
	for _, a := range d.args {
		mem = binary.LittleEndian.AppendUint64(mem, a)
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		i := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case opLoad:
			if i.K%4 != 0 || int(i.K) >= len(mem) {
				t.Fatalf("load from %d", i.K)
			}
			acc = binary.LittleEndian.Uint32(mem[i.K:])
		case opAnd:
			acc &= i.K
		case opJump:
			pc += int(i.K)
		case opJumpEqual:
			jump(acc == i.K)
		case opJumpGreater:
			jump(acc > i.K)
		case opJumpGreaterEqual:
			jump(acc >= i.K)
		case opReturn:
			return i.K
		default:
			t.Fatalf("opcode %#x", i.Code)
		}
	}
	t.Fatal("the program runs off its end")
	return 0
}

// naive decides as the package comment says, straight from the spec.
func naive(s *specs.LinuxSeccomp, d data) uint32 {
	self, _ := native()
	enabled := append([]specs.Arch{self}, s.Architectures...)
	fallback, _ := parseAction(s.DefaultAction, s.DefaultErrnoRet)
	var a *arch
	for i := range arches {
		x32 := d.nr >= x32Bit && (d.nr != 1<<32-1 || slices.Contains(enabled, specs.ArchX32))
		if arches[i].audit == d.arch && slices.Contains(enabled, arches[i].spec) &&
			(arches[i].spec != specs.ArchX32 || x32) && (arches[i].spec != specs.ArchX86_64 || !x32) {
			a = &arches[i]
		}
	}
	if a == nil {
		return retKillProcess
	}
	number := func(name string) int64 {
		if row, ok := lookup(name); ok {
			return int64(row.numbers[a.column])
		}
		return -1
	}
	newest, named := int64(-1), false
	var conditional []uint32
	for _, r := range s.Syscalls {
		action, _ := parseAction(r.Action, r.ErrnoRet)
		for _, name := range r.Names {
			nr := number(name)
			if nr >= 0 && nr < int64(a.end) {
				newest = max(newest, nr)
			}
			if m, ok := multiplex(name); ok && a.spec == specs.ArchX86 && len(r.Args) == 0 && int64(d.nr) == number(m.by) && action != fallback {
				named = true
				if d.args[0] == m.arg {
					conditional = append(conditional, action)
				}
			}
			if nr != int64(d.nr) || action == fallback {
				continue
			}
			named = true
			if len(r.Args) == 0 {
				return firstUnconditional(s, a, d, fallback)
			}
			if matches(r.Args, d.args) {
				conditional = append(conditional, action)
			}
		}
	}
	switch {
	case len(conditional) > 0:
		return conditional[0]
	case !named && newest >= 0 && int64(d.nr) > newest && !slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, s.DefaultAction):
		return retErrno | enosys
	case d.nr == 1<<32-1 && a.spec == specs.ArchX86_64 && fallback != retAllow && fallback != retLog && fallback&0xffff0000 != retTrace:
		return retErrno | enosys
	}
	return fallback
}

func firstUnconditional(s *specs.LinuxSeccomp, a *arch, d data, fallback uint32) uint32 {
	for _, r := range s.Syscalls {
		action, _ := parseAction(r.Action, r.ErrnoRet)
		for _, name := range r.Names {
			row, ok := lookup(name)
			if ok && row.numbers[a.column] >= 0 && uint32(row.numbers[a.column]) == d.nr && len(r.Args) == 0 && action != fallback {
				return action
			}
		}
	}
	return fallback
}

func matches(args []specs.LinuxSeccompArg, values [6]uint64) bool {
	all, any, again := true, false, false
	var seen [6]bool
	for _, a := range args {
		v, ok := values[a.Index], false
		switch a.Op {
		case specs.OpEqualTo:
			ok = v == a.Value
		case specs.OpNotEqual:
			ok = v != a.Value
		case specs.OpLessThan:
			ok = v < a.Value
		case specs.OpLessEqual:
			ok = v <= a.Value
		case specs.OpGreaterThan:
			ok = v > a.Value
		case specs.OpGreaterEqual:
			ok = v >= a.Value
		case specs.OpMaskedEqual:
			ok = v&a.Value == a.ValueTwo
		}
		all, any = all && ok, any || ok
		again = again || seen[a.Index]
		seen[a.Index] = true
	}
	if again {
		return any
	}
	return all
}

// source makes profiles and calls from a stream of numbers: random ones in tests, the fuzzer's in fuzzing.
type source func(n int) int

var someNames = []string{"read", "write", "openat", "clone", "clone3", "socket", "socketcall", "ipc", "semop", "recv", "personality",
	"ioctl", "execve", "mmap2", "cacheflush", "set_tls", "sync_file_range2", "ptrace", "no_such_call", "futex_waitv", "readv", "bpf"}

var someValues = []uint64{0, 1, 2, 40, 0xffffffff, 0x100000000, 0x100000001, 1<<63 - 1, 1 << 63, 1<<64 - 1, 0x7e020000}

func (next source) profile() *specs.LinuxSeccomp {
	errno := func(a specs.LinuxSeccompAction) *uint {
		if a != specs.ActErrno && a != specs.ActTrace || next(2) == 0 {
			return nil
		}
		n := uint(next(3) * 19)
		return &n
	}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
		specs.ActTrap, specs.ActTrace, specs.ActLog}
	ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan,
		specs.OpGreaterEqual, specs.OpMaskedEqual}
	s := &specs.LinuxSeccomp{DefaultAction: actions[next(len(actions))]}
	s.DefaultErrnoRet = errno(s.DefaultAction)
	for _, a := range arches {
		if next(2) == 0 {
			s.Architectures = append(s.Architectures, a.spec)
		}
	}
	for range next(24) {
		r := specs.LinuxSyscall{Action: actions[next(len(actions))]}
		r.ErrnoRet = errno(r.Action)
		for range 1 + next(12) {
			if next(3) == 0 {
				r.Names = append(r.Names, syscallTable[next(len(syscallTable))].name)
			} else {
				r.Names = append(r.Names, someNames[next(len(someNames))])
			}
		}
		for range max(0, next(6)-2) {
			r.Args = append(r.Args, specs.LinuxSeccompArg{Index: uint(next(6)), Op: ops[next(len(ops))],
				Value: someValues[next(len(someValues))], ValueTwo: someValues[next(len(someValues))]})
		}
		s.Syscalls = append(s.Syscalls, r)
	}
	return s
}

func (next source) call(s *specs.LinuxSeccomp) data {
	d := data{arch: arches[next(len(arches))].audit}
	if next(20) == 0 {
		d.arch = 0x1234
	}
	switch next(4) {
	case 0:
		d.nr = []uint32{0, 500, 1000, x32Bit - 1, x32Bit, x32Bit + 600, 0xf0000, 0xf0005, 1<<31 - 1, 1 << 31, 1<<32 - 2, 1<<32 - 1}[next(12)]
	case 1:
		d.nr = uint32(next(480)) | uint32(next(2))*x32Bit
	default:
		name := someNames[next(len(someNames))]
		if len(s.Syscalls) > 0 && next(3) > 0 {
			names := s.Syscalls[next(len(s.Syscalls))].Names
			name = names[next(len(names))]
		}
		if row, ok := lookup(name); ok {
			d.nr = uint32(max(0, row.numbers[next(5)]))
		}
	}
	for i := range d.args {
		d.args[i] = someValues[next(len(someValues))] + uint64(next(2))
	}
	return d
}

func TestProgramsAgainstNaiveEvaluation(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	var next source = rng.IntN
	for range 1500 {
		s := next.profile()
		f, err := Compile(s)
		if err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
		for range 200 {
			d := next.call(s)
			if got, want := run(t, f.Program, d), naive(s, d); got != want {
				t.Fatalf("profile %+v\ncall %+v: program says %#x, spec %#x", s, d, got, want)
			}
		}
	}
}

// A profile whose sections and chains are longer than a conditional jump reaches.
func TestFarJumps(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	var next source = rng.IntN
	for range 30 {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}}
		for i := range 120 {
			errno := uint(next(300))
			r := specs.LinuxSyscall{Names: []string{syscallTable[(i*3)%len(syscallTable)].name}, Action: specs.ActErrno, ErrnoRet: &errno}
			for arg := range uint(next(3)) {
				r.Args = append(r.Args, specs.LinuxSeccompArg{Index: arg, Op: specs.OpGreaterThan, Value: someValues[next(len(someValues))]})
			}
			s.Syscalls = append(s.Syscalls, r)
		}
		f, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		for range 2000 {
			d := next.call(s)
			if got, want := run(t, f.Program, d), naive(s, d); got != want {
				t.Fatalf("call %+v: program says %#x, spec %#x", d, got, want)
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for i := range 3000 {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: uint64(i)}}})
	}
	if _, err := Compile(s); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("12000 instructions: %v", err)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add([]byte("seed"))
	f.Add([]byte{1, 1, 0, 0, 1, 0, 1, 9, 3, 5, 2, 1, 4, 6, 2, 8, 1, 3, 3, 3, 0, 255, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		at := 0
		next := source(func(n int) int {
			if at >= len(b) {
				return 0
			}
			at++
			return int(b[at-1]) % n
		})
		s := next.profile()
		filter, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			d := next.call(s)
			if got, want := run(t, filter.Program, d), naive(s, d); got != want {
				t.Fatalf("profile %+v\ncall %+v: program says %#x, spec %#x", s, d, got, want)
			}
		}
	})
}
