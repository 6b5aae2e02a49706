package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/nettest"
)

const childEnv = "BERTH_CNI_TEST_CHILD" // the Config of a daemon that is to be killed

// child lives the life of one pod.
func child(env string) int {
	var cfg Config
	err := json.Unmarshal([]byte(env), &cfg)
	if err == nil {
		err = life(cfg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func life(cfg Config) error {
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	n, err := Open(cfg)
	if err != nil {
		return err
	}
	<-n.retry.first // no plugin runs beside those of the pod's life, and outlives them
	ctx := context.Background()
	path, err := n.CreateNetNS(ctx, "life", nil)
	if err != nil {
		return err
	}
	if _, err := n.Attach(ctx, network.Request{SandboxID: "life", NetNS: path, PodNamespace: "default", PodName: "web"}); err != nil {
		return err
	}
	if err := n.Detach(ctx, "life"); err != nil {
		return err
	}
	if err := n.RemoveNetNS(ctx, "life"); err != nil {
		return err
	}
	return n.Close()
}

func (n *node) command(failpoint string) *exec.Cmd {
	cfg := n.cfg
	cfg.Logger = nil
	env, err := json.Marshal(cfg)
	if err != nil {
		n.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(env), "BERTH_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func wasKilled(t *testing.T, err error) {
	t.Helper()
	if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatal("the child was not killed:", err)
	}
}

// Whatever the place where the daemon dies: the next one finds what the plugins have, and has them give it back.
func TestKilledAtEveryPlace(t *testing.T) {
	n := newNode(t)
	n.Close()
	file := filepath.Join(t.TempDir(), "places")
	if err := n.command("trace:" + file).Run(); err != nil {
		t.Fatal("a life without failures:", err)
	}
	n.open()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	places := strings.Fields(string(b))
	if len(places) < 12 {
		t.Errorf("only %d places: %v", len(places), places)
	}
	for _, place := range places {
		for _, then := range []string{"repair", "repeat"} {
			t.Run(place+"/"+then, func(t *testing.T) {
				n := newNode(t)
				n.Close()
				wasKilled(t, n.command(place+"=kill").Run())
				n.open()
				if then == "repeat" {
					n.pod("life")
					n.stop("life")
				}
			}) // newNode's clean-up repairs, and finds nothing
		}
	}
}

// A plugin survives the daemon that called it. The next daemon lets it end before it says DEL: an address that is
// given after its DEL is lost.
func TestNoDelOvertakesAnAdd(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.Close()
	n.set("fake", "ADD", "wait for a file")
	cmd := n.command("")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(n.folder, "log")
	nettest.Await(t, "ADD runs", func() bool { b, _ := os.ReadFile(log); return strings.Contains(string(b), `"Command":"ADD"`) })
	cmd.Process.Kill()
	wasKilled(t, cmd.Wait())
	n.open()
	done := make(chan error, 1)
	go func() {
		_, err := n.Repair(context.Background(), func(string) bool { return false })
		done <- err
	}()
	// Whether it waits shows in the order of the log, not in time.
	if err := os.WriteFile(filepath.Join(n.folder, "go on"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for line := range strings.Lines(string(b)) {
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		if c.Command != "GC" {
			order = append(order, c.Plugin+" "+c.Command)
		}
	}
	if want := []string{"fake ADD", "fake end of ADD", "second DEL", "fake DEL"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

// A record that can not be read is told of, and goes with a repair, which the clean-up does.
func TestDamagedRecord(t *testing.T) {
	n := newNode(t)
	n.pod("a")
	if err := os.WriteFile(n.records.record("a"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	items, err := n.Inventory(context.Background())
	if err != nil || len(items) != 2 || items[1].Kind != network.KindRecord {
		t.Errorf("%v, %v", items, err)
	}
	if err := n.Detach(context.Background(), "a"); err == nil {
		t.Error("what is not known was detached")
	}
}
