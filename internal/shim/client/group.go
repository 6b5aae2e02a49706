package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/shim/fdstore"
	"github.com/11f9778f/berth/internal/shim/launch"
	"github.com/11f9778f/berth/internal/shim/state"
	"github.com/11f9778f/berth/internal/sys"
)

// Names in a group's directory that the shim's server gives, too.
const (
	socketTTRPC = "shim.sock"
	socketFD    = "fd.sock"
	groupFile   = "group.json"
)

// groupRecord is a group in <group>/group.json. It is written before what it says comes true.
type groupRecord struct {
	ID         string   `json:"id"`
	Tenant     string   `json:"tenant,omitempty"`
	Handler    string   `json:"handler,omitempty"`
	Binary     string   `json:"binary"`
	Foreign    bool     `json:"foreign,omitempty"`
	Address    string   `json:"address,omitempty"` // of a foreign shim
	Bundle     string   `json:"bundle,omitempty"`  // of a foreign shim's sandbox
	TaskV2     bool     `json:"taskV2,omitempty"`  // a foreign shim that serves version 2 of the Task service
	Options    Options  `json:"options,omitzero"`  // of a foreign shim
	Generation uint32   `json:"generation"`
	Sandboxes  []string `json:"sandboxes,omitempty"`
}

// group is one shim and the sandboxes that it keeps.
type group struct {
	m    *Manager
	id   string
	dir  string
	shim *Shim

	// disk is held while the record is written; taken before mu.
	disk sync.Mutex

	mu      sync.Mutex
	rec     groupRecord
	ready   chan struct{} // closed when begin has ended
	err     error         // of begin
	process *process      // nil while there is none
	vault   *fdstore.Vault
	left    map[string]*sys.Held // of a dead shim, until a vault of its successor's has them
	ending  bool                 // the shim's death is what we want
}

// process is a shim's process as its daemon sees it.
type process struct {
	pid   int
	pidfd *os.File
	cmd   *exec.Cmd // nil if it is no child of ours
	dead  chan struct{}
	// launching tells that launch waits for it, and sees to it if it dies; guarded by group.mu.
	launching bool
}

func newGroupID() string { return strings.ToLower(rand.Text()[:8]) }

func (m *Manager) newGroup(id string) *group {
	g := &group{m: m, id: id, dir: filepath.Join(m.dir, id), ready: make(chan struct{})}
	g.shim = newShim(g)
	return g
}

func (g *group) fdSocket() string { return filepath.Join(g.dir, socketFD) }

func (g *group) file() string { return filepath.Join(g.dir, groupFile) }

// save writes the record.
func (g *group) save() error {
	g.disk.Lock()
	defer g.disk.Unlock()
	g.mu.Lock()
	rec := g.rec
	rec.Sandboxes = slices.Clone(rec.Sandboxes)
	g.mu.Unlock()
	return state.Save(g.file(), rec)
}

// takes tells whether the placement fits into the group.
func (g *group) takes(p Placement, size int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.rec.Foreign && g.rec.Tenant == p.Tenant && g.rec.Handler == p.Handler && len(g.rec.Sandboxes) < size && !g.ending && g.err == nil && !g.shim.isGone()
}

// usable tells whether a spare has started or still may.
func (g *group) usable() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err == nil && !g.shim.isGone()
}

// settle gives a spare to a tenant.
func (g *group) settle(tenant string) {
	g.mu.Lock()
	g.rec.Tenant = tenant
	g.mu.Unlock()
	g.m.groups[g.id] = g
}

func (g *group) add(sandboxID string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.Sandboxes = append(g.rec.Sandboxes, sandboxID)
}

func (g *group) remove(sandboxID string) (empty bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.Sandboxes = slices.DeleteFunc(g.rec.Sandboxes, func(id string) bool { return id == sandboxID })
	return len(g.rec.Sandboxes) == 0
}

func (g *group) isEmpty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.rec.Sandboxes) == 0
}

// begin starts the group's first shim.
func (g *group) begin(ctx context.Context, p Placement) (err error) {
	defer func() {
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
		if err != nil {
			g.shim.setGone(err)
			os.RemoveAll(g.dir)
		}
		close(g.ready)
	}()
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return fmt.Errorf("make shim directory: %w", err)
	}
	g.mu.Lock()
	g.rec.Bundle = p.Bundle
	g.mu.Unlock()
	if err := g.save(); err != nil {
		return err
	}
	if err := failpoint.Here("shim/client/intent"); err != nil {
		return err
	}
	if g.rec.Foreign {
		return g.startForeign(ctx, p)
	}
	return g.launch(ctx, nil)
}

// join waits until the group's shim is there, and writes who joined.
func (g *group) join(ctx context.Context) error {
	if err := g.save(); err != nil && !errors.Is(err, os.ErrNotExist) { // begin has not made the directory yet
		return err
	}
	select {
	case <-g.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// launch starts a shim of our own in the group's directory and connects to it.
func (g *group) launch(ctx context.Context, files map[string]*sys.Held) error {
	g.mu.Lock()
	g.rec.Generation++
	rec := g.rec
	g.mu.Unlock()
	if err := g.save(); err != nil {
		return err
	}
	cmd, err := launch.Start(ctx, rec.Binary, launch.Boot{
		Dir: g.dir, Group: g.id, Generation: rec.Generation, Namespace: g.m.cfg.Namespace, EventsAddress: g.m.events.address, Managed: true,
		LogSize: g.m.cfg.LogSize, LogFiles: g.m.cfg.LogFiles,
	}, files)
	if err != nil {
		return err
	}
	if err := failpoint.Here("shim/client/launched"); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	err = g.adopt(ctx, cmd.Process.Pid, cmd)
	if err == nil {
		err = g.launched()
	}
	if err != nil {
		g.mu.Lock()
		g.process = nil // whoever watches it does not replace it
		g.mu.Unlock()
		cmd.Process.Kill()
		go cmd.Wait() // watch may do so, too: one of them reaps it
		return err
	}
	return nil
}

// launched leaves a shim that has just been adopted to watch, unless it has died already.
func (g *group) launched() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.process.dead:
		return fmt.Errorf("start shim: process %d has died", g.process.pid)
	default:
		g.process.launching = false
		return nil
	}
}

// reconnect finds the shim of an earlier daemon. One that was just started when that died is waited for.
func (g *group) reconnect(ctx context.Context) error {
	defer func() {
		select {
		case <-g.ready:
		default:
			close(g.ready)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := g.adopt(ctx, 0, nil)
		if err == nil || g.rec.Foreign || ctx.Err() != nil || !launch.Lives(g.dir) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// adopt connects to the group's living shim and watches it. pid 0 asks the socket.
func (g *group) adopt(ctx context.Context, pid int, cmd *exec.Cmd) error {
	c, peer, err := g.dial(ctx)
	if err != nil {
		return err
	}
	if pid == 0 {
		pid = peer
	}
	if g.rec.Foreign {
		if pid, err = g.foreignPid(ctx, c.client); err != nil {
			c.Close()
			return err
		}
		c.pid = pid
	}
	pidfd, err := sys.OpenPidFD(pid)
	if err != nil {
		c.Close()
		return err
	}
	p := &process{pid: pid, pidfd: pidfd, cmd: cmd, dead: make(chan struct{}), launching: cmd != nil}
	if !g.rec.Foreign {
		if err = g.openVault(); err != nil {
			c.Close()
			pidfd.Close()
			return err
		}
	}
	g.mu.Lock()
	g.process = p
	g.mu.Unlock()
	g.m.wg.Go(func() { g.watch(p) })
	g.shim.connected(c)
	if g.rec.Foreign {
		return nil
	}
	return g.shim.hello(ctx)
}

// watch waits for the end of the shim's process.
func (g *group) watch(p *process) {
	conn, err := p.pidfd.SyscallConn()
	if err == nil {
		waited := false
		// The second call comes when the pidfd is readable: the process has ended.
		err = conn.Read(func(uintptr) bool { ended := waited; waited = true; return ended })
	}
	if err != nil {
		p.pidfd.Close()
		return // the manager is closed, the shim lives on
	}
	if p.cmd != nil {
		p.cmd.Wait()
	}
	g.shim.lost(p.pid)
	close(p.dead)
	p.pidfd.Close()
	g.mu.Lock()
	ending := g.ending || g.process != p || p.launching
	g.mu.Unlock()
	if ending || g.m.ctx.Err() != nil {
		return
	}
	g.replace(p)
}

// replace starts a successor for a shim that died, again and again if need be, but not for ever.
func (g *group) replace(dead *process) {
	g.m.log.Warn("a shim has died", "group", g.id, "pid", dead.pid)
	g.m.out.put(Event{Kind: EventShimLost, Time: time.Now(), Group: g.id, Pid: dead.pid})
	if g.rec.Foreign {
		g.shim.setGone(errors.New("the shim has died"))
		return
	}
	var err error
	for wait := time.Duration(0); wait < 5*time.Second; wait = max(2*wait, 100*time.Millisecond) {
		select {
		case <-time.After(wait):
		case <-g.m.ctx.Done():
			return
		}
		if err = g.succeed(g.m.ctx); err == nil {
			return
		}
		g.m.log.Error("start a successor", "group", g.id, "err", err)
	}
	g.shim.setGone(err)
	g.m.dropSpare(g)
	g.m.out.put(Event{Kind: EventShimLost, Time: time.Now(), Group: g.id, Pid: dead.pid, Err: err})
}

// succeed starts a successor, which gets back the descriptors that its predecessor has left with us, and reports what
// has ended meanwhile.
func (g *group) succeed(ctx context.Context) error {
	if err := failpoint.Here("shim/client/succeed"); err != nil {
		return err
	}
	files, err := g.inheritance()
	if err != nil {
		return err
	}
	defer closeHeld(files) // what did not come to be inherited
	if err := g.launch(ctx, files); err != nil {
		return err
	}
	g.m.out.put(Event{Kind: EventShimReplaced, Time: time.Now(), Group: g.id, Pid: g.shim.Pid()})
	if err := g.shim.reportEnded(ctx); err != nil { // it has died in its turn, and whoever watches it starts another one
		g.m.log.Warn("ask a successor what has ended", "group", g.id, "err", err)
	}
	return nil
}

// end shuts the shim down and removes the directory. A shim that does not obey is killed: the group is empty.
func (g *group) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	g.mu.Lock()
	g.ending = true
	p := g.process
	g.mu.Unlock()
	if p == nil { // of an earlier daemon
		if err := g.reconnect(ctx); err == nil {
			g.mu.Lock()
			p = g.process
			g.mu.Unlock()
		}
	}
	if p != nil {
		if err := g.shim.shutdown(ctx); err != nil {
			g.m.log.Warn("a shim does not end when asked", "group", g.id, "err", err)
		}
		if !g.isDead(p, 3*time.Second) {
			if err := sys.SignalPidFD(p.pidfd, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, os.ErrClosed) {
				return err
			}
			g.isDead(p, time.Second)
		}
	}
	g.disconnect()
	g.removeSocket()
	if err := g.discard(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(g.dir); err != nil {
		return fmt.Errorf("remove shim directory: %w", err)
	}
	return nil
}

func (g *group) isDead(p *process, wait time.Duration) bool {
	select {
	case <-p.dead:
		return true
	default:
	}
	select {
	case <-p.dead:
		return true
	case <-time.After(wait):
		return false
	}
}

// disconnect ends the connections; the shim lives on.
func (g *group) disconnect() {
	g.mu.Lock()
	p := g.process
	g.mu.Unlock()
	g.shim.close()
	g.closeVault()
	if p != nil {
		p.pidfd.SetReadDeadline(time.Now()) // ends watch
	}
}

func (g *group) info() GroupInfo {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GroupInfo{
		ID: g.id, Tenant: g.rec.Tenant, Handler: g.rec.Handler, Dir: g.dir, Sandboxes: slices.Clone(g.rec.Sandboxes),
		Pid: g.shim.Pid(), Alive: g.shim.Pid() != 0, Stuck: g.shim.isStuck(),
	}
}
