package book

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
)

const childEnv = "BERTH_BOOK_TEST_CHILD" // the folder of a book whose keeper is to be killed

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(churn(dir))
	}
	os.Exit(m.Run())
}

var small = netip.MustParsePrefix("10.0.0.0/25") // 125 for pods

const workers, each = 4, 25

// churn claims and releases until it is killed, and says so each time.
func churn(dir string) int {
	b, err := Open(dir, "boot", []netip.Prefix{small}, quiet)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ; i++ {
				owner := fmt.Sprintf("pod-%d-%d", w, i%each)
				if _, ok := b.Get(owner); ok {
					err = b.Release(owner)
				} else {
					_, _, err = b.Claim(owner, Want{Ports: []Port{{Protocol: "tcp", HostPort: uint16(1000 + w*each + i%each), ContainerPort: 80}}})
				}
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				os.Stdout.WriteString(".\n")
			}
		})
	}
	wg.Wait()
	return 0
}

// Ten thousand claims and releases, with kill -9 in between: no address has two owners, none is lost.
func TestTenThousandClaimsWithKills(t *testing.T) {
	dir := t.TempDir()
	for range 25 {
		killAfter(t, dir, 400)
		b := open(t, dir, "boot", small)
		if d, err := b.Damaged(); len(d) > 0 || err != nil { // two of one address would be set aside as well
			t.Fatalf("damaged records: %v, %v", d, err)
		}
		var owners []netip.Addr
		for _, e := range b.Entries() {
			owners = append(owners, e.Addresses[0].Addr())
		}
		slices.SortFunc(owners, netip.Addr.Compare)
		if n := len(slices.Compact(slices.Clone(owners))); n != len(owners) || n > workers*each {
			t.Fatalf("%d addresses for %d owners", n, len(owners))
		}
	}
	b := open(t, dir, "boot", small)
	for _, e := range b.Entries() {
		if err := b.Release(e.Owner); err != nil {
			t.Error(err)
		}
	}
	for i := range 125 { // every one of them can still be had
		claim(t, b, fmt.Sprint("last-", i))
	}
}

// killAfter kills a keeper that has done at least n things.
func killAfter(t *testing.T, dir string, n int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	for i := 0; i < n && in.Scan(); i++ {
	}
	cmd.Process.Kill()
	if err := cmd.Wait(); err == nil || err.(*exec.ExitError).ExitCode() != -1 {
		t.Fatal("the child ended by itself:", err)
	}
}
