package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// maxBootstrap bounds what is read of a foreign shim's answer to `start`.
const maxBootstrap = 64 << 10

// startForeign starts a shim that is not ours by containerd's protocol: its `start` command answers where the shim is.
func (g *group) startForeign(ctx context.Context, p Placement) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.rec.Binary, "-namespace", g.m.cfg.Namespace, "-id", p.SandboxID, "-address", g.m.events.address, "start")
	cmd.Dir = p.Bundle
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+g.m.events.address, "NAMESPACE="+g.m.cfg.Namespace, "MAX_SHIM_VERSION=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// The shim itself may inherit standard error: with a file, nobody waits for its end.
	stderr, err := os.CreateTemp(g.dir, "start-")
	if err != nil {
		return fmt.Errorf("start shim: %w", err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	var out bytes.Buffer
	cmd.Stdout = &out
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		said := make([]byte, 1024)
		n, _ := stderr.ReadAt(said, 0)
		return fmt.Errorf("start shim %s: %w: %s", g.rec.Binary, err, bytes.TrimSpace(said[:n]))
	}
	address, err := parseBootstrap(io.LimitReader(&out, maxBootstrap))
	if err != nil {
		return fmt.Errorf("start shim %s: %w", g.rec.Binary, err)
	}
	g.mu.Lock()
	g.rec.Address = address
	g.rec.Generation = 1
	g.mu.Unlock()
	if err := g.save(); err != nil {
		return err
	}
	return g.adopt(ctx, 0, nil)
}

// parseBootstrap reads a shim's address: JSON from new shims, the bare address from old ones.
func parseBootstrap(r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	b = bytes.TrimSpace(b)
	var result struct {
		Version           int
		Address, Protocol string
	}
	if json.Unmarshal(b, &result) != nil {
		result.Address, result.Protocol = string(b), "ttrpc"
	}
	if result.Protocol != "" && result.Protocol != "ttrpc" {
		return "", fmt.Errorf("it speaks %q, which Berth does not", result.Protocol)
	}
	if !strings.HasPrefix(result.Address, "unix://") && !strings.HasPrefix(result.Address, "/") {
		return "", fmt.Errorf("it names no address: %.100q", b)
	}
	return result.Address, nil
}
