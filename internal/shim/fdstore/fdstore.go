// Package fdstore keeps a shim's descriptors twice, so that they outlive it.
//
// The shim has a Keeper: a set of named files (pidfds, terminals, FIFOs). Over a SEQPACKET unix socket it gives a
// duplicate of each to whoever connects, which is the daemon, and tells every change from then on. The daemon
// has a Vault, which holds them and nothing else: it never reads one. When the shim is dead, the daemon gives
// duplicates of the Vault's files to the successor as inherited descriptors, and holds on to its own until the
// successor has told what it keeps itself.
//
// The package promises that neither side waits for the other: a shim works on beside a stopped daemon, and what
// changed meanwhile is told when it reads again. It never decides what a descriptor is for.
package fdstore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"

	"github.com/11f9778f/berth/internal/sys"
)

// A message is one byte of kind and the name; put carries the descriptor.
const (
	put    = 'P'
	drop   = 'D'
	synced = 'S' // all that was kept when the connection was made has been sent

	maxName = 512
)

// Keeper is the shim's end.
type Keeper struct {
	mu    sync.Mutex
	files map[string]*os.File
	peer  *peer
}

// peer is the daemon that is connected.
type peer struct {
	conn    *net.UnixConn
	pending []message // guarded by Keeper.mu
	wake    chan struct{}
}

type message struct {
	kind byte
	name string
	file *os.File // borrowed; a closed one is skipped
}

// NewKeeper returns a Keeper of nothing.
func NewKeeper() *Keeper { return &Keeper{files: map[string]*os.File{}} }

// Put keeps f under the name, in place of what was kept there. The caller keeps f and drops the name before it
// closes f.
func (k *Keeper) Put(name string, f *os.File) {
	if f == nil || len(name) > maxName {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files[name] = f
	k.tell(message{put, name, f})
}

// Drop ends the keeping of a name.
func (k *Keeper) Drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.files[name]; ok {
		delete(k.files, name)
		k.tell(message{kind: drop, name: name})
	}
}

func (k *Keeper) tell(m message) {
	if k.peer == nil {
		return
	}
	k.peer.pending = append(k.peer.pending, m)
	select {
	case k.peer.wake <- struct{}{}:
	default:
	}
}

// Files lists what is kept, by name. The files are borrowed.
func (k *Keeper) Files() map[string]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.files)
}

// Serve gives the files to each daemon that connects to l, the last one in place of those before. It returns
// when l is closed.
func (k *Keeper) Serve(l *net.UnixListener) error {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("descriptor store: %w", err)
		}
		p := &peer{conn: conn, wake: make(chan struct{}, 1)}
		k.mu.Lock()
		if k.peer != nil {
			k.peer.conn.Close()
		}
		k.peer = p
		for name, f := range k.files {
			k.tell(message{put, name, f})
		}
		k.tell(message{kind: synced})
		k.mu.Unlock()
		go k.feed(p)
		go k.watch(p)
	}
}

// watch notices the end of the connection.
func (k *Keeper) watch(p *peer) {
	_, _ = p.conn.Read(make([]byte, 1)) // the daemon sends nothing: this is its end
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.peer == p {
		k.peer = nil
	}
	p.conn.Close()
	close(p.wake)
	p.wake = nil // no tell can reach it: k.peer is another one
}

func (k *Keeper) feed(p *peer) {
	wake := p.wake
	for range wake {
		k.mu.Lock()
		batch := p.pending
		p.pending = nil
		k.mu.Unlock()
		for _, m := range batch {
			err := sys.SendFile(p.conn, append([]byte{m.kind}, m.name...), m.file)
			if err != nil && !errors.Is(err, os.ErrClosed) {
				p.conn.Close()
				return
			}
		}
	}
}

// Vault is the daemon's end.
type Vault struct {
	conn   *net.UnixConn
	synced chan struct{}
	done   chan struct{}

	mu    sync.Mutex
	files map[string]*sys.Held
	// left is what a predecessor of the Keeper left, without what the Keeper has named since; empty once synced.
	left map[string]*sys.Held
}

// Dial connects to the Keeper that serves the socket at path. left is what the Vault of the Keeper's predecessor held, if
// it had one: a Keeper that dies before it has told all that it keeps takes nothing of it along. The Vault owns left if
// err is nil.
func Dial(path string, left map[string]*sys.Held) (*Vault, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("descriptor store: %w", err)
	}
	v := &Vault{conn: conn, synced: make(chan struct{}), done: make(chan struct{}), files: map[string]*sys.Held{}, left: left}
	go v.receive()
	return v, nil
}

// Synced is closed when all that the Keeper held at the time of Dial has arrived.
func (v *Vault) Synced() <-chan struct{} { return v.synced }

func (v *Vault) receive() {
	defer close(v.done)
	buf := make([]byte, 1+maxName)
	seen := false
	for {
		n, f, err := sys.RecvFile(v.conn, buf)
		if err != nil && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)) || n == 0 && err == nil {
			return
		}
		if err != nil {
			v.conn.Close()
			return
		}
		switch name := string(buf[1:n]); {
		case buf[0] == put && f != nil:
			v.set(name, f)
			continue
		case buf[0] == drop:
			v.set(name, nil)
		case buf[0] == synced && !seen:
			seen = true
			v.forgetLeft()
			close(v.synced)
		}
		if f != nil {
			f.Close()
		}
	}
}

func (v *Vault) set(name string, f *sys.Held) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, held := range []map[string]*sys.Held{v.left, v.files} {
		if old := held[name]; old != nil {
			old.Close()
			delete(held, name)
		}
	}
	if f != nil {
		v.files[name] = f
	}
}

// forgetLeft gives up what a predecessor left and the Keeper does not want.
func (v *Vault) forgetLeft() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.left {
		f.Close()
	}
	v.left = nil
}

// Take ends the connection and returns what was kept, by name; the caller owns it. What the Keeper sent before it
// died is in it, and what its predecessor left if it had not come to tell all.
func (v *Vault) Take() map[string]*sys.Held {
	// The dead Keeper's last messages are still in the socket: receive ends behind them. One that is alive
	// is cut off.
	v.conn.CloseWrite()
	<-v.done
	v.conn.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	files := v.files
	maps.Copy(files, v.left)
	v.files, v.left = map[string]*sys.Held{}, nil
	return files
}

// Close gives everything up.
func (v *Vault) Close() error {
	err := v.conn.Close()
	<-v.done
	for _, f := range v.Take() {
		f.Close()
	}
	return err
}

// Len is how many descriptors are held.
func (v *Vault) Len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.files)
}
