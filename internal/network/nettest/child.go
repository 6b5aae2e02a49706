package nettest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// jobEnv has what a child of a test is to do, as JSON.
const jobEnv = "BERTH_NETWORK_TEST_CHILD"

// Job reads what this process is to do, if it is a test's child.
func Job(job any) bool {
	text := os.Getenv(jobEnv)
	if text == "" {
		return false
	}
	if err := json.Unmarshal([]byte(text), job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return true
}

// Child is this test's binary as a process that is to do the job, with a failpoint; it dies with the test.
func Child(t testing.TB, job any, failpoint string) *exec.Cmd {
	t.Helper()
	env, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), jobEnv+"="+string(env), "BERTH_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Places returns the failpoints that a child passes.
func Places(t testing.TB, job any) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "places")
	if err := Child(t, job, "trace:"+file).Run(); err != nil {
		t.Fatal("without failures:", err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// WasKilled wants the end of a child to have been a SIGKILL.
func WasKilled(t testing.TB, err error) {
	t.Helper()
	if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatal("the child was not killed:", err)
	}
}

// FailsAt runs a child that has an error at a place, and wants it to end with it.
func FailsAt(t testing.TB, job any, place string) {
	t.Helper()
	cmd := Child(t, job, place+"=error")
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "failpoint "+place) {
		t.Errorf("%v, said %q", err, said.String())
	}
}
