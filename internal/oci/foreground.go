package oci

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/term"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/sys"
)

// foreground lets a process have this one's terminal and signals until it ends. Without a terminal of its
// own the process has this one's stdio already.
type foreground struct {
	process *engine.Process
	host    *os.File // the terminal that this process has, or nil
	raw     *term.State
	signals chan os.Signal
	output  sync.WaitGroup
}

// foreground connects p, unless it is to be left alone.
func (a *app) foreground(detach bool, process *specs.Process, p *engine.Process) (*foreground, error) {
	f := &foreground{process: p}
	if detach {
		return f, nil
	}
	f.signals = make(chan os.Signal, 128)
	signal.Notify(f.signals)
	if !process.Terminal {
		return f, nil
	}
	for _, file := range []*os.File{a.Err, a.Out, a.In} {
		if term.IsTerminal(int(file.Fd())) {
			f.host = file
			break
		}
	}
	if f.host != nil {
		f.resize()
		state, err := term.MakeRaw(int(f.host.Fd()))
		if err != nil {
			f.end()
			return nil, err
		}
		f.raw = state
	}
	go io.Copy(p.Console(), a.In)
	f.output.Go(func() { io.Copy(a.Out, p.Console()) }) // ends with EIO when nobody has the terminal any more
	return f, nil
}

// resize gives the process's terminal the size of this one's.
func (f *foreground) resize() {
	if f.host == nil || f.process.Console() == nil {
		return
	}
	if w, h, err := term.GetSize(int(f.host.Fd())); err == nil {
		_ = sys.SetWindowSize(f.process.Console(), uint16(w), uint16(h))
	}
}

// wait forwards signals until p ends.
func (f *foreground) wait(ctx context.Context, p *engine.Process) (engine.ExitStatus, error) {
	done := make(chan struct{})
	var forwarding sync.WaitGroup
	forwarding.Go(func() {
		for {
			select {
			case s := <-f.signals:
				f.forward(s)
			case <-done:
				return
			}
		}
	})
	status, err := p.Wait(ctx)
	close(done)
	forwarding.Wait()
	f.output.Wait()
	f.end()
	return status, err
}

func (f *foreground) forward(s os.Signal) {
	switch s {
	case syscall.SIGCHLD, syscall.SIGPIPE, syscall.SIGURG: // SIGURG is the Go runtime's own
	case syscall.SIGWINCH:
		f.resize()
	default:
		if n, ok := s.(syscall.Signal); ok {
			_ = f.process.Signal(n) // it may have ended
		}
	}
}

// end gives the terminal back. It may be called twice.
func (f *foreground) end() {
	if f.signals != nil {
		signal.Stop(f.signals)
	}
	if f.raw != nil {
		term.Restore(int(f.host.Fd()), f.raw)
		f.raw = nil
	}
}
