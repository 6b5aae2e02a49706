package seccomp

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary load a filter into itself and tell what it feels like.
const roleEnv = "BERTH_SECCOMP_TEST_ROLE"

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// The kernel's verifier takes the programs, and calls fare as the profile says.
func TestKernelObeys(t *testing.T) {
	tests := []struct{ role, want string }{
		{"default", "getpid ok, sched_yield ok, socket(AF_VSOCK) EPERM, keyctl EPERM, number 5000 ENOSYS"},
		{"custom", "getppid EACCES, umask(1) ok, umask(7) EXDEV, getpid ok, number 5000 ENOSYS"},
	}
	for _, tt := range tests {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), roleEnv+"="+tt.role)
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "no seccomp") {
			t.Skipf("%s", out)
		}
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.role, err, got, tt.want)
		}
	}
	// What kills, kills.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=kill")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "bad system call") {
		t.Errorf("a killing rule: %v, %s", err, out)
	}
}

func play(role string) error {
	runtime.LockOSThread()
	var s *specs.LinuxSeccomp
	var err error
	switch role {
	case "default":
		s, err = Default(nil)
	case "custom":
		eacces, exdev := uint(unix.EACCES), uint(unix.EXDEV)
		s, err = Default(nil)
		if err != nil {
			return err
		}
		s.Syscalls = append([]specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActErrno, ErrnoRet: &eacces},
			{Names: []string{"umask"}, Action: specs.ActErrno, ErrnoRet: &exdev, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpGreaterThan, Value: 5}}},
			{Names: []string{"umask"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpLessEqual, Value: 5}}},
		}, without(s.Syscalls, "umask")...)
	case "kill":
		s = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActKillProcess}}}
	}
	if err != nil {
		return err
	}
	if err := load(s); err != nil {
		return err
	}
	var said []string
	try := func(what string, nr, a uintptr) {
		_, _, errno := unix.RawSyscall(nr, a, 0, 0)
		result := unix.ErrnoName(errno)
		if errno == 0 || errno == unix.EINVAL {
			result = "ok"
		}
		said = append(said, what+" "+result)
	}
	switch role {
	case "default":
		try("getpid", unix.SYS_GETPID, 0)
		try("sched_yield", unix.SYS_SCHED_YIELD, 0)
		try("socket(AF_VSOCK)", unix.SYS_SOCKET, unix.AF_VSOCK)
		try("keyctl", unix.SYS_KEYCTL, 0)
	case "custom", "kill":
		try("getppid", unix.SYS_GETPPID, 0)
		try("umask(1)", unix.SYS_UMASK, 1)
		try("umask(7)", unix.SYS_UMASK, 7)
		try("getpid", unix.SYS_GETPID, 0)
	}
	try("number 5000", 5000, 0)
	fmt.Println(strings.Join(said, ", "))
	return nil
}

func without(rules []specs.LinuxSyscall, name string) []specs.LinuxSyscall {
	var out []specs.LinuxSyscall
	for _, r := range rules {
		names := r.Names
		r.Names = nil
		for _, n := range names {
			if n != name {
				r.Names = append(r.Names, n)
			}
		}
		out = append(out, r)
	}
	return out
}

func load(s *specs.LinuxSeccomp) error {
	f, err := Compile(s)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(f.Program)), Filter: (*unix.SockFilter)(unsafe.Pointer(&f.Program[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(f)
	if errno == unix.ENOSYS {
		return fmt.Errorf("no seccomp in this kernel")
	}
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
