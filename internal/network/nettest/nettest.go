// Package nettest runs the tests of a package in a process with a network and a mount namespace of its own, so
// that they meet nothing of this machine's and leave nothing in it. That namespace plays the host.
//
// It is for tests alone.
package nettest

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/network/rtnl"
)

// insideEnv is set in the process that has namespaces of its own.
const insideEnv = "BERTH_NETWORK_TEST_INSIDE"

// Run is what TestMain ends with. Without root it runs the tests as they are.
func Run(m *testing.M) int {
	switch {
	case os.Geteuid() == 0 && os.Getenv(insideEnv) == "":
		return reexec()
	case os.Getenv(insideEnv) != "":
		if err := bringLoopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "bring lo up:", err)
			return 1
		}
	}
	return m.Run()
}

// NeedRoot skips a test that makes namespaces and links.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces, links and an nftables table")
	}
}

func reexec() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start the tests in namespaces of their own:", err)
			return 1
		}
		return cmd.ProcessState.ExitCode()
	}
	return 0
}

func bringLoopbackUp() error {
	c, err := rtnl.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.LinkUp(1)
}
