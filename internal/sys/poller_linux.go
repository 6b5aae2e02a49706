package sys

import (
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Poller tells when descriptors have something to read. A goroutine that waits for one costs its stack, some kilobytes;
// a Polled costs some hundred bytes. While something is done about a descriptor there is a goroutine for it, so none
// waits for what is done about another.
type Poller struct {
	ep *os.File

	mu     sync.Mutex
	polled map[int32]*Polled
	last   int32 // number given
}

// Polled is one descriptor's part of a Poller.
type Polled struct {
	p     *Poller
	id    int32
	conn  syscall.RawConn
	ready func() (again bool)
}

// NewPoller returns a Poller of nothing.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make poller: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime's own poller waits for it
		unix.Close(fd)
		return nil, fmt.Errorf("make poller: %w", err)
	}
	p := &Poller{ep: os.NewFile(uintptr(fd), "poller"), polled: map[int32]*Polled{}}
	conn, err := p.ep.SyscallConn()
	if err != nil {
		p.ep.Close()
		return nil, fmt.Errorf("make poller: %w", err)
	}
	go conn.Read(p.take)
	return p, nil
}

// Close ends the waiting.
func (p *Poller) Close() error { return p.ep.Close() }

// Add calls ready, each time in a goroutine and never twice at once, when f can be read without waiting: also when it
// is at its end, and for a pidfd when the process has ended. ready returns false when it is to be called no more. f stays
// open until then, or until Stop.
func (p *Poller) Add(f *os.File, ready func() (again bool)) (*Polled, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	w := &Polled{p: p, conn: conn, ready: ready}
	p.mu.Lock()
	p.last++
	for p.polled[p.last] != nil {
		p.last++
	}
	w.id = p.last
	p.polled[w.id] = w
	p.mu.Unlock()
	if err := w.control(unix.EPOLL_CTL_ADD); err != nil {
		w.forget()
		return nil, fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	return w, nil
}

// Stop ends the waiting. A call of ready that is under way goes on.
func (w *Polled) Stop() {
	w.forget()
	_ = w.control(unix.EPOLL_CTL_DEL) // it may be gone with its descriptor
}

func (w *Polled) forget() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	delete(w.p.polled, w.id)
}

// control asks for one event, or for none any more.
func (w *Polled) control(op int) error {
	ep, err := w.p.ep.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = w.conn.Control(func(fd uintptr) {
		err := ep.Control(func(epfd uintptr) {
			serr = unix.EpollCtl(int(epfd), op, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: w.id})
		})
		if err != nil {
			serr = err
		}
	})
	if err != nil {
		return err
	}
	return serr
}

// take hands out what has happened. It returns false, that is, it waits for more.
func (p *Poller) take(ep uintptr) bool {
	var events [64]unix.EpollEvent
	for {
		n, err := unix.EpollWait(int(ep), events[:], 0)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 {
			return false
		}
		for _, e := range events[:n] {
			p.mu.Lock()
			w := p.polled[e.Fd]
			p.mu.Unlock()
			if w != nil {
				go w.run()
			}
		}
	}
}

func (w *Polled) run() {
	if !w.ready() {
		w.Stop()
		return
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if w.p.polled[w.id] == w {
		_ = w.control(unix.EPOLL_CTL_MOD) // its file may be closed by now
	}
}
