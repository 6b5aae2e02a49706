package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/node"
)

// handle is a node that answers, and what this process owes it.
type handle struct {
	*api.Client
	node *node.Client

	mu    sync.Mutex
	child *exec.Cmd // the node, if this process started it
	ended chan error
}

// adopt makes this process owe the node of h what it owes the node of next.
func (h *handle) adopt(next *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if next.child != nil {
		h.child, h.ended = next.child, next.ended
	}
}

// errNoNode is the sentence for verbs that look at pods where there is no node to have any.
func (c *cli) errNoNode() error {
	return fail("start one with `berth run FILE` or `berth node`", "no node is running on %s", c.run)
}

// connect returns the node that is running. One that died without cleaning up still has pods, so it
// gets a successor; where there was none, ok is false.
func (c *cli) connect(ctx context.Context) (h *handle, ok bool, err error) {
	if !answers(c.nodeSocket()) && node.Died(c.run) == "" {
		return nil, false, nil
	}
	h, err = c.ensureNode(ctx)
	return h, err == nil, err
}

// completing returns the node that is running, to complete a word with what it has. The folders are not
// settled yet: completion has a root command of its own.
func (c *cli) completing(cmd *cobra.Command) (*handle, bool) {
	l, err := c.load(cmd, folders)
	if err != nil {
		return nil, false
	}
	c.root, c.run = l.Root, l.Run
	if !answers(c.nodeSocket()) {
		return nil, false
	}
	h, err := c.ensureNode(cmd.Context())
	return h, err == nil
}

// mustConnect is connect for verbs that make no sense without a node.
func (c *cli) mustConnect(ctx context.Context) (*handle, error) {
	h, ok, err := c.connect(ctx)
	if err == nil && !ok {
		err = c.errNoNode()
	}
	return h, err
}

// ensureNode returns the node that is running, or starts one that ends when it is idle.
func (c *cli) ensureNode(ctx context.Context) (*handle, error) {
	h := &handle{Client: api.NewClient(c.nodeSocket()), node: node.NewClient(c.nodeSocket())}
	if answers(c.nodeSocket()) {
		return h, nil
	}
	if node.Died(c.run) == node.VerbCRI { // its pods are another kubelet's
		return nil, fail("start it again with `berth cri`, or end its pods with `berth node` in its place", "the daemon on %s served the CRI and has died", c.run)
	}
	if err := c.startNode(h); err != nil {
		return nil, err
	}
	if err := c.awaitNode(ctx, h); err != nil {
		return nil, err
	}
	return h, nil
}

func (c *cli) nodeLog() string { return filepath.Join(c.root, "node.log") }

// startNode starts this very binary as a node of its own session, its messages in the node's log.
func (c *cli) startNode(h *handle) error {
	if err := os.MkdirAll(c.root, 0o700); err != nil {
		return fail("choose another folder with --root", "%w", err)
	}
	log, err := os.OpenFile(c.nodeLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the node's log: %w", err)
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the berth binary: %w", err)
	}
	args := []string{"--root", c.root, "--run", c.run}
	if c.configFile != "" {
		file, err := filepath.Abs(c.configFile)
		if err != nil {
			return fmt.Errorf("find %s: %w", c.configFile, err)
		}
		args = append(args, "--config", file)
	}
	h.child = exec.Command(exe, append(args, "node", "--idle-exit", autoIdle.String())...)
	h.child.Dir = "/"
	h.child.Stderr = log
	h.child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := h.child.Start(); err != nil {
		return fmt.Errorf("start a node: %w", err)
	}
	h.ended = make(chan error, 1)
	go func() { h.ended <- h.child.Wait() }()
	return nil
}

// autoIdle is how long a node that was started by the way stays without a pod and without a call.
const autoIdle = 10 * time.Second

// awaitNode waits until a node answers: the one that was started, or another one that was faster. One
// that ends before it answers tells why in its log.
func (c *cli) awaitNode(ctx context.Context, h *handle) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !answers(c.nodeSocket()) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ended:
			h.child, h.ended = nil, nil
		case <-tick.C:
		}
		if h.child == nil && !node.Lives(c.run) {
			if answers(c.nodeSocket()) {
				return nil
			}
			return fail("see "+c.nodeLog(), "the node could not start: %s", c.lastWords())
		}
	}
	if h.child != nil && node.Holder(c.run) != h.child.Process.Pid { // it was too late, and is ending
		h.child, h.ended = nil, nil
	}
	return nil
}

// lastWords is what the node said as it gave up: its log ends with one sentence.
func (c *cli) lastWords() string {
	b, err := os.ReadFile(c.nodeLog())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "berth: ")
}

// answers tells whether somebody listens on the unix socket.
func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// release ends what this process started: a node of its own that has nothing left to do is asked to
// end, and is waited for until it has removed what it made.
func (h *handle) release(ctx context.Context) error {
	defer h.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.child == nil {
		return nil
	}
	if err := h.Shutdown(ctx, true); err != nil {
		return nil // it has pods, of whomever: it ends after the last one
	}
	select {
	case err := <-h.ended:
		var code *exec.ExitError
		if err != nil && !errors.As(err, &code) {
			return fmt.Errorf("wait for the node's end: %w", err)
		}
		if err != nil {
			return fail("see node.log in the root folder", "the node ended with %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// persist calls f until it has reached a node: where that died, the next one is started and asked again.
func (c *cli) persist(ctx context.Context, h *handle, f func() error) error {
	for {
		err := f()
		if !unreachable(err) || ctx.Err() != nil {
			return err
		}
		next, err := c.ensureNode(ctx)
		if err != nil {
			return err
		}
		h.adopt(next)
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// unreachable tells whether err means that there is nobody at the socket (any more).
func unreachable(err error) bool {
	for _, lost := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, fs.ErrNotExist, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, lost) {
			return true
		}
	}
	return false
}
