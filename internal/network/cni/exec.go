package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/11f9778f/berth/internal/sys"
)

const (
	maxOutput = 1 << 20  // of a plugin's result in bytes
	maxWords  = 16 << 10 // of what it says on standard error
	// pipeGrace is how long the output of a plugin that has ended may be held open by what it left behind.
	pipeGrace = 2 * time.Second
)

// runner runs plugins. It is the invoke.Exec that libcni is given.
type runner struct {
	version.PluginDecoder
	timeout time.Duration
	// witness is passed to plugins, and by them to what they start: see attachment.hold. It may be nil.
	witness *os.File
}

// FindInPath finds a plugin's program.
func (r *runner) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("the CNI plugin %q is not in %s: install it there, or configure network.cni.bin_dirs: %w",
			plugin, strings.Join(dirs, ", "), err)
	}
	return path, nil
}

// ExecPlugin runs a plugin to its end, or to that of its time.
func (r *runner) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	stdout, stderr := &limited{limit: maxOutput, strict: true}, &limited{limit: maxWords}
	run := func() error {
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, bytes.NewReader(stdin), stdout, stderr
		if r.witness != nil {
			cmd.ExtraFiles = []*os.File{r.witness}
		}
		// A group of its own, so that those whom the plugin has asked end with it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = pipeGrace
		return sys.RunPunctual(cmd)
	}
	err := run()
	for errors.Is(err, syscall.ETXTBSY) && ctx.Err() == nil { // it is being installed
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			err = run()
		}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well; what it left behind is its own affair
	}
	command := commandOf(env)
	switch {
	case stdout.over:
		return nil, fmt.Errorf("%s %s printed more than %d bytes", filepath.Base(path), command, maxOutput)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s %s did not answer within %s and was killed%s: %w", filepath.Base(path), command, r.timeout, stderr.words(), ctx.Err())
	case err != nil:
		return nil, failure(command, path, err, stdout.kept.Bytes(), stderr)
	}
	return stdout.kept.Bytes(), nil
}

func commandOf(env []string) string {
	for _, kv := range env {
		if c, ok := strings.CutPrefix(kv, "CNI_COMMAND="); ok {
			return c
		}
	}
	return ""
}

// failure is what a plugin's end means. A plugin that follows the specification printed the error.
func failure(command, path string, err error, stdout []byte, stderr *limited) error {
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && (said.Msg != "" || said.Code != 0) {
		return fmt.Errorf("%s %s: %w", filepath.Base(path), command, &said)
	}
	return fmt.Errorf("%s %s: %w%s", filepath.Base(path), command, err, stderr.words())
}

// limited keeps the first bytes that are written to it. It is no bytes.Buffer itself: that could be read into,
// past the limit.
type limited struct {
	kept   bytes.Buffer
	limit  int
	strict bool // what is too much is an error, which closes the pipe
	over   bool
}

func (l *limited) Write(b []byte) (int, error) {
	n := len(b)
	if room := l.limit - l.kept.Len(); n > room {
		if l.over = true; l.strict {
			return 0, io.ErrShortBuffer
		}
		b = b[:room]
	}
	l.kept.Write(b)
	return n, nil
}

func (l *limited) words() string {
	if w := strings.TrimSpace(l.kept.String()); w != "" {
		return fmt.Sprintf(" (it said %q)", w)
	}
	return ""
}
