package seccomp

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestTableIsSorted(t *testing.T) {
	for i := 1; i < len(syscallTable); i++ {
		if syscallTable[i-1].name >= syscallTable[i].name {
			t.Errorf("%s is not before %s", syscallTable[i-1].name, syscallTable[i].name)
		}
	}
	for name, want := range map[string][5]int32{ // from the kernel's tables
		"read": {3, 0, x32Bit, 3, 63}, "ioctl": {54, 16, x32Bit | 514, 54, 29}, "set_tls": {-1, -1, -1, 0xf0005, -1},
		"pwritev2": {379, 328, x32Bit | 547, 393, 287}, "clone3": {435, 435, x32Bit | 435, 435, 435},
	} {
		if row, ok := lookup(name); !ok || row.numbers != want {
			t.Errorf("%s: %v, want %v", name, row, want)
		}
	}
}

func TestErrors(t *testing.T) {
	n := uint(4096)
	one := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	tests := []struct {
		s    *specs.LinuxSeccomp
		want string
		kind error
	}{
		{&specs.LinuxSeccomp{}, `action ""`, ErrUnsupported},
		{&specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_DANCE"}, "SCMP_ACT_DANCE", ErrUnsupported},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: &n}, "takes no errno", nil},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &n}, "4096", nil},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActNotify, ListenerPath: "/x"}, "default action", nil},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchMIPS}}, "SCMP_ARCH_MIPS", ErrUnsupported},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_X"}}, "SECCOMP_X", ErrUnsupported},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}, "NOTIFY", nil},
		{one(specs.LinuxSyscall{Action: specs.ActErrno}), "names no system call", nil},
		{one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, ErrnoRet: &n}), "takes no errno", nil},
		{one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), "listenerPath", nil},
		{one(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}), "write", nil},
		{one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ISH"}}}), "SCMP_CMP_ISH", ErrUnsupported},
		{one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActTrap, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), "argument 6", nil},
	}
	for _, tt := range tests {
		_, err := Compile(tt.s)
		if err == nil || !strings.Contains(err.Error(), tt.want) || tt.kind != nil && !errors.Is(err, tt.kind) {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
	if f, err := Compile(nil); f != nil || err != nil {
		t.Errorf("nil profile: %v, %v", f, err)
	}
}

func TestFlagsNotifyUnknown(t *testing.T) {
	f, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x",
		Flags:    []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"zzz", "mkdir", "aaa", "zzz"}, Action: specs.ActNotify}}})
	if err != nil {
		t.Fatal(err)
	}
	if f.Flags != flagLog|flagWaitKillableRecv || !f.Notify || !slices.Equal(f.Unknown, []string{"aaa", "zzz"}) {
		t.Errorf("%#x, notify %v, unknown %v", f.Flags, f.Notify, f.Unknown)
	}
	if len(f.Bytes()) != 8*len(f.Program) {
		t.Errorf("%d bytes for %d instructions", len(f.Bytes()), len(f.Program))
	}
}

func TestDefault(t *testing.T) {
	allowed := func(caps []string, name string) bool {
		s, err := Default(caps)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		if len(f.Program) > 400 {
			t.Errorf("%d instructions", len(f.Program))
		}
		row, _ := lookup(name)
		self, _ := native()
		for _, a := range arches {
			if a.spec == self {
				return run(t, f.Program, data{nr: uint32(row.numbers[a.column]), arch: a.audit}) == retAllow
			}
		}
		return false
	}
	for _, tt := range []struct {
		caps []string
		name string
		want bool
	}{
		{nil, "read", true}, {nil, "mount", false}, {[]string{"CAP_SYS_ADMIN"}, "mount", true},
		{nil, "bpf", false}, {[]string{"CAP_BPF"}, "bpf", true}, {nil, "kexec_load", false},
		{[]string{"CAP_SYS_TIME"}, "settimeofday", true}, {nil, "settimeofday", false},
	} {
		if got := allowed(tt.caps, tt.name); got != tt.want {
			t.Errorf("with %v, %s allowed: %v", tt.caps, tt.name, got)
		}
	}
	s, err := Default(nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("default profile: %d instructions, unknown names %v", len(f.Program), f.Unknown)
}

func BenchmarkCompileDefault(b *testing.B) {
	s, err := Default(nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	for b.Loop() {
		if _, err := Default(nil); err != nil {
			b.Fatal(err)
		}
	}
}
