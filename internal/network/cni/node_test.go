package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/nettest"
)

// node is a Network under test, with the fakes as its plugins.
type node struct {
	*nettest.Node
	*Network
	cfg    Config
	folder string // the fakes'
}

const twoFakes = `{"cniVersion":"1.1.0","name":"fakes","plugins":[
	{"type":"fake","folder":%[1]q,"capabilities":{"portMappings":true,"bandwidth":true,"ips":true}},
	{"type":"second","folder":%[1]q,"capabilities":{"dns":true,"aliases":true,"ipRanges":true}}]}`

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{Node: nettest.NewNode(t)}
	dir := filepath.Dir(n.RunDir)
	n.folder = filepath.Join(dir, "fake")
	n.cfg = Config{
		RunDir: n.RunDir, StateDir: filepath.Join(dir, "state"), ConfDir: filepath.Join(dir, "net.d"),
		BinDirs: []string{filepath.Join(dir, "bin")}, Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, d := range []string{n.folder, n.cfg.ConfDir, n.cfg.BinDirs[0]} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fake", "second"} {
		if err := os.Symlink(exe, filepath.Join(n.cfg.BinDirs[0], name)); err != nil {
			t.Fatal(err)
		}
	}
	n.conf("10.conflist", fmt.Sprintf(twoFakes, n.folder))
	n.open()
	t.Cleanup(n.cleanUp)
	return n
}

func (n *node) open() {
	n.Helper()
	m, err := Open(n.cfg)
	if err != nil {
		n.Fatal(err)
	}
	m.patience = 30 * time.Second // as long as it takes on a loaded machine
	n.Network, n.Pods = m, m
}

// cleanUp detaches what is left with plugins that are good, and finds nothing.
func (n *node) cleanUp() {
	for _, p := range []string{"fake", "second"} {
		n.set(p, "DEL", "")
	}
	if _, err := n.Repair(context.Background(), func(string) bool { return false }); err != nil {
		n.Error("repair:", err)
	}
	if err := n.Close(); err != nil {
		n.Error(err)
	}
	left, err := os.ReadDir(n.cfg.StateDir)
	if err != nil {
		n.Error(err)
	}
	for _, e := range left {
		if e.IsDir() {
			n.Errorf("a record is left: %s", e.Name())
		}
	}
	if has, err := filepath.Glob(filepath.Join(n.folder, "has-*")); len(has) > 0 || err != nil {
		n.Errorf("plugins still have something of sandboxes: %v, %v", has, err)
	}
	n.Bare()
}

func (n *node) conf(name, text string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(n.cfg.ConfDir, name), []byte(text), 0o644); err != nil {
		n.Fatal(err)
	}
}

// set says what a fake does at a command; "" is that all goes well.
func (n *node) set(plugin, command, do string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(n.folder, plugin+"."+command), []byte(do), 0o600); err != nil {
		n.Fatal(err)
	}
}

// calls returns what the fakes were called with since the last time.
func (n *node) calls() []call {
	n.Helper()
	path := filepath.Join(n.folder, "log")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		n.Fatal(err)
	}
	defer f.Close()
	defer os.Remove(path)
	var out []call
	for s := bufio.NewScanner(f); s.Scan(); {
		var c call
		if err := json.Unmarshal(s.Bytes(), &c); err != nil {
			n.Fatal(err)
		}
		if c.Command != "end of ADD" {
			out = append(out, c)
		}
	}
	return out
}

// said is the calls in short: "fake ADD a".
func (n *node) said() []string {
	n.Helper()
	var out []string
	for _, c := range n.calls() {
		out = append(out, strings.TrimSpace(c.Plugin+" "+c.Command+" "+c.ID))
	}
	return out
}

func (n *node) expectCalls(want ...string) {
	n.Helper()
	if got := n.said(); !slices.Equal(got, want) {
		n.Errorf("plugins were called with\n%q, want\n%q", got, want)
	}
}

// settled waits until the network's own first round is over, so that its GC is not among a test's calls.
func (n *node) settled() {
	n.Helper()
	<-n.retry.first
	n.calls()
}

func (n *node) start(id string, change func(*network.Request)) (*network.Result, error) {
	n.Helper()
	r := network.Request{SandboxID: id, NetNS: n.NetNS(id), PodNamespace: "default", PodName: "web", PodUID: "u-1"}
	if change != nil {
		change(&r)
	}
	return n.Attach(context.Background(), r)
}

func (n *node) pod(id string) *network.Result {
	n.Helper()
	r, err := n.start(id, nil)
	if err != nil {
		n.Fatal(err)
	}
	return r
}
