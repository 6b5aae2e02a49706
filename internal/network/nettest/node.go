package nettest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/network/netns"
)

// Pods is what every network does with a pod, but for giving it its addresses.
type Pods interface {
	CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (string, error)
	RemoveNetNS(ctx context.Context, id string) error
	Detach(ctx context.Context, id string) error
}

// Node is a machine with a network under test.
type Node struct {
	testing.TB
	// RunDir is the run directory; Pods is the network that has it now.
	RunDir string
	Pods   Pods
}

// NewNode returns a Node with an empty run directory and no network yet. The test is skipped without root.
func NewNode(t testing.TB) *Node {
	t.Helper()
	NeedRoot(t)
	return &Node{TB: t, RunDir: filepath.Join(t.TempDir(), "run")}
}

// NetNS makes a pod's namespace, or finds the one that is there.
func (n *Node) NetNS(id string) (path string) {
	n.Helper()
	path, err := n.Pods.CreateNetNS(context.Background(), id, nil)
	if err != nil {
		n.Fatal(err)
	}
	return path
}

// Stop takes everything from a pod.
func (n *Node) Stop(id string) {
	n.Helper()
	if err := n.Pods.Detach(context.Background(), id); err != nil {
		n.Error(err)
	}
	if err := n.Pods.RemoveNetNS(context.Background(), id); err != nil {
		n.Error(err)
	}
}

// Bare wants no namespace to be pinned any more.
func (n *Node) Bare() {
	n.Helper()
	if ids, err := netns.Dir(filepath.Join(n.RunDir, "netns")).List(); len(ids) > 0 || err != nil {
		n.Errorf("pins are left: %v, %v", ids, err)
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(b), n.RunDir) {
		n.Errorf("mounts are left: %v\n%s", err, b)
	}
}

// path is that of a pod's namespace; id "" is the host's.
func (n *Node) path(id string) string {
	if id == "" {
		return ""
	}
	return filepath.Join(n.RunDir, "netns", id)
}

// In runs f in a pod's namespace.
func (n *Node) In(id string, f func() error) {
	n.Helper()
	if err := In(n.path(id), f); err != nil {
		n.Fatal(err)
	}
}

// Serve answers in a pod on addr with "NAME saw ADDRESS OF CLIENT", until the test ends or stop is called.
func (n *Node) Serve(id, network, addr, name string) (stop func()) {
	n.Helper()
	return Serve(n, n.path(id), network, addr, name)
}

// Ask sends a question from a pod and returns the answer.
func (n *Node) Ask(id, network, addr string) (answer string, err error) {
	return Ask(n.path(id), network, addr)
}

// Expect asks until the answer is the one wanted, or for so long that it never will be.
func (n *Node) Expect(from, network, addr, want string) {
	n.Helper()
	Expect(n, n.path(from), network, addr, want)
}

// Refuse asks, and wants no answer.
func (n *Node) Refuse(from, network, addr string) {
	n.Helper()
	Refuse(n, n.path(from), network, addr)
}

// World makes a namespace "outside" with a link to the host, and no route to the pods.
func (n *Node) World() {
	n.Helper()
	World(n, n.NetNS("outside"))
}
