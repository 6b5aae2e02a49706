// Package relay carries to a pod what the kernel does not: connections and datagrams to the host's own ::1. The
// kernel translates destinations of IPv6, but it drops answers from a link to ::1; for 127.0.0.1 it has a switch
// (route_localnet).
//
// A relay has the port's socket of all addresses, and refuses what comes to any other than loopback. It lives as long
// as the daemon: its connections break with that, and no others do.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Bounds of one relay.
const (
	maxPeers = 1024             // connections, or clients that send datagrams
	idle     = time.Minute      // how long a client of datagrams is remembered when there are none, of its or for it
	patience = 10 * time.Second // for the pod to take a connection
	maxUDP   = 1 << 16
)

// Dial connects to the pod.
type Dial func(ctx context.Context) (net.Conn, error)

// Relay is one port's.
type Relay struct {
	dial   Dial
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	open  map[io.Closer]struct{}
	peers int
}

// Start relays what comes to the socket f, and closes f: for protocol "tcp" it listens, for "udp" it is bound.
func Start(protocol string, f *os.File, dial Dial) (*Relay, error) {
	defer f.Close()
	r := &Relay{dial: dial, open: map[io.Closer]struct{}{}}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	switch protocol {
	case "tcp":
		l, err := net.FileListener(f)
		if err != nil {
			return nil, err
		}
		r.keep(l)
		r.done.Go(func() { r.accept(l.(*net.TCPListener)) })
	case "udp":
		c, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		r.keep(c)
		r.done.Go(func() { r.receive(c.(*net.UDPConn)) })
	default:
		return nil, errors.New("relay: protocol " + protocol)
	}
	return r, nil
}

// Close ends the relay and all that goes through it.
func (r *Relay) Close() error {
	r.cancel()
	r.mu.Lock()
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.done.Wait()
	return nil
}

// keep closes c with the relay; it tells whether that is not closed already.
func (r *Relay) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		c.Close()
		return false
	}
	r.open[c] = struct{}{}
	return true
}

func (r *Relay) drop(c io.Closer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
	c.Close()
}

// enter counts a peer in, if there is room.
func (r *Relay) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers >= maxPeers {
		return false
	}
	r.peers++
	return true
}

func (r *Relay) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers--
}

func (r *Relay) accept(l *net.TCPListener) {
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptor is free, say
			select {
			case <-r.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		case !c.LocalAddr().(*net.TCPAddr).IP.IsLoopback() || !r.enter():
			reset(c)
		default:
			r.done.Go(func() {
				defer r.leave()
				r.connect(c)
			})
		}
	}
}

func (r *Relay) connect(c *net.TCPConn) {
	if !r.keep(c) {
		return
	}
	defer r.drop(c)
	ctx, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	far, err := r.dial(ctx)
	if err != nil {
		reset(c)
		return
	}
	if !r.keep(far) {
		return
	}
	defer r.drop(far)
	pod := far.(*net.TCPConn)
	var up sync.WaitGroup
	up.Go(func() { pass(pod, c) })
	pass(c, pod)
	up.Wait()
}

// pass copies one direction. Its end is passed on as such, and so is a reset.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		reset(to)
		reset(from)
		return
	}
	to.CloseWrite()
}

// reset closes a connection so that the other side sees a reset and not an orderly end.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// receive passes datagrams on, each client's from a socket of its own.
func (r *Relay) receive(c *net.UDPConn) {
	clients := map[netip.AddrPort]net.Conn{}
	var mu sync.Mutex
	buf := make([]byte, maxUDP)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !from.Addr().IsLoopback() {
			continue
		}
		mu.Lock()
		far := clients[from]
		mu.Unlock()
		if far == nil {
			if far = r.newClient(c, from, func() { mu.Lock(); delete(clients, from); mu.Unlock() }); far == nil {
				continue // a datagram may be lost
			}
			mu.Lock()
			clients[from] = far
			mu.Unlock()
		}
		far.SetReadDeadline(time.Now().Add(idle))
		far.Write(buf[:n])
	}
}

// newClient makes the socket for a client, and has answers go back to it until there was nothing for a while.
func (r *Relay) newClient(c *net.UDPConn, from netip.AddrPort, forget func()) net.Conn {
	if !r.enter() {
		return nil
	}
	far, err := r.dial(r.ctx)
	if err != nil || !r.keep(far) {
		r.leave()
		return nil
	}
	r.done.Go(func() {
		defer r.leave()
		defer r.drop(far)
		defer forget()
		buf := make([]byte, maxUDP)
		for {
			n, err := far.Read(buf)
			var timeout net.Error
			if errors.Is(err, net.ErrClosed) || errors.As(err, &timeout) && timeout.Timeout() {
				return
			}
			if err == nil { // else nobody listens there, now
				far.SetReadDeadline(time.Now().Add(idle))
				c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	})
	return far
}
