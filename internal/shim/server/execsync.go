package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/shim/api"
)

const (
	// maxExecOutput bounds what ExecSync keeps of a stream (CVE-2022-31030).
	maxExecOutput = 16 << 20
	// maxInline is how much output one answer carries; ttrpc's messages end at 4 MiB.
	maxInline = 3 << 20
)

// parseProcess reads a process of the OCI runtime specification.
func (t *task) parseProcess(b []byte) (*specs.Process, error) {
	p, err := parseProcess(b)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.created:
		if t.spec != nil {
			engine.MendEnv(t.spec.Process, p)
		}
	default: // it has no process yet, and will be refused
	}
	return p, nil
}

func parseProcess(b []byte) (*specs.Process, error) {
	var p specs.Process
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("process: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(p.Args) == 0 {
		return nil, fmt.Errorf("process: no args: %w", errdefs.ErrInvalidArgument)
	}
	return &p, nil
}

// capped keeps the first limit bytes.
type capped struct {
	b         []byte
	limit     int64
	truncated bool
}

func (c *capped) take(p []byte) error {
	room := max(0, c.limit-int64(len(c.b)))
	if int64(len(p)) > room {
		p, c.truncated = p[:room], true
	}
	c.b = append(c.b, p...)
	return nil
}

func (t *task) execSync(ctx context.Context, req *api.ExecSyncRequest, spec *specs.Process) (*api.ExecSyncResponse, error) {
	ctr, err := t.live()
	if err != nil {
		return nil, err
	}
	if spec.Terminal {
		return nil, fmt.Errorf("ExecSync with a terminal: %w", errdefs.ErrInvalidArgument)
	}
	limit := req.Limit
	if limit <= 0 || limit > maxExecOutput {
		limit = maxExecOutput
	}
	q, err := newPipes(spec, false, true, true)
	if err != nil {
		return nil, err
	}
	defer q.close()
	proc, err := ctr.Exec(ctx, engine.ExecOptions{ID: "sync", Process: spec, Stdio: q.stdio()})
	q.closeTheirs()
	if err != nil {
		return nil, err
	}
	defer release(proc)
	stdout, stderr := capped{limit: limit}, capped{limit: limit}
	var readers sync.WaitGroup
	readers.Go(func() { drainTo(q.out, stdout.take) })
	readers.Go(func() { drainTo(q.err, stderr.take) })
	st, timedOut, err := waitAtMost(ctx, proc, time.Duration(req.TimeoutNs))
	q.processEnded()
	readers.Wait()
	if err != nil {
		return nil, err
	}
	resp := &api.ExecSyncResponse{
		Exit: exitMessage(st, false), TimedOut: timedOut, Truncated: stdout.truncated || stderr.truncated,
	}
	return resp, t.s.fillOutput(resp, stdout.b, stderr.b)
}

// waitAtMost waits for the process and ends it when its time is over. When the caller is gone, so is the process.
func waitAtMost(ctx context.Context, p Process, timeout time.Duration) (st engine.ExitStatus, timedOut bool, err error) {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if timeout > 0 {
		wait, cancel = context.WithTimeout(ctx, timeout)
	}
	defer cancel()
	st, err = p.Wait(wait)
	if err == nil || wait.Err() == nil {
		return st, false, err
	}
	p.Signal(syscall.SIGKILL)
	dying, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	st, err = p.Wait(dying)
	if ctx.Err() != nil {
		return st, false, ctx.Err()
	}
	if err != nil {
		return st, true, fmt.Errorf("the process does not die: %w", err)
	}
	return st, true, nil
}

// fillOutput puts the output into the answer, or into files where it does not fit.
func (s *Server) fillOutput(resp *api.ExecSyncResponse, stdout, stderr []byte) error {
	if len(stdout)+len(stderr) <= maxInline {
		resp.Stdout, resp.Stderr = stdout, stderr
		return nil
	}
	var err error
	if resp.StdoutFile, err = s.spill(stdout); err != nil {
		return err
	}
	resp.StderrFile, err = s.spill(stderr)
	return err
}

func (s *Server) spill(b []byte) (string, error) {
	f, err := os.CreateTemp(s.path("io"), "exec-")
	if err != nil {
		return "", fmt.Errorf("keep output: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("keep output: %w", err)
	}
	return f.Name(), nil
}
