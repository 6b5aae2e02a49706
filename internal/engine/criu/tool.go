package criu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ErrUnavailable is wrapped by errors that say that this machine has no CRIU that would do.
var ErrUnavailable = errors.New("checkpoints need CRIU 4 or newer (Debian: the package criu of trixie or newer) in the daemon's PATH, or checkpoint.criu in the configuration")

// leastMajor is the first version that knows the kernels of today: 3.x takes their vdso for a broken one.
const leastMajor = 4

// Tool is a CRIU that may be used.
type Tool struct {
	Path    string // absolute
	Version string // "4.1.1"
}

// Find looks for a CRIU at path, or in PATH if that is empty, and asks its version. The error wraps ErrUnavailable.
func Find(ctx context.Context, path string) (Tool, error) {
	if path == "" {
		path = "criu"
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return Tool{}, fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	if found, err = filepath.Abs(found); err != nil {
		return Tool{}, fmt.Errorf("%w: %w", err, ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, found, "--version").CombinedOutput()
	if err != nil {
		return Tool{}, fmt.Errorf("ask %s for its version: %w: %s: %w", found, err, firstLine(string(out)), ErrUnavailable)
	}
	version, major := parseVersion(string(out))
	if major < leastMajor {
		return Tool{}, fmt.Errorf("%s is version %q: %w", found, version, ErrUnavailable)
	}
	return Tool{Path: found, Version: version}, nil
}

// parseVersion reads "Version: 4.1.1"; the major number is 0 where there is none.
func parseVersion(out string) (version string, major int) {
	for line := range strings.Lines(out) {
		v, ok := strings.CutPrefix(strings.TrimSpace(line), "Version:")
		if !ok {
			continue
		}
		version = strings.TrimSpace(v)
		first, _, _ := strings.Cut(version, ".")
		if n, err := strconv.Atoi(first); err == nil {
			return version, n
		}
	}
	return version, 0
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line[:min(len(line), 200)]
}
