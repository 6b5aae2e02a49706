package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/book"
	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/rtnl"
	"github.com/11f9778f/berth/internal/sys"
)

// Manager is the network of one daemon. Its methods may be called from several goroutines.
type Manager struct {
	netns.Keeper

	cfg   Config
	log   *slog.Logger
	book  *book.Book
	table *firewall.Table
	host  *os.File // the host's network namespace; nil for the process's own
	lock  *os.File // held as long as the Manager is open

	routes chan *rtnl.Conn // idle connections to the host's namespace

	bridge bridge
	spares spares
	holds  holds
	owners owners
}

var _ Network = (*Manager)(nil)

// Open makes a Manager from what an earlier one with this run directory left. Sandboxes that were attached
// stay attached; bridge, table and held ports are brought back for them. One Manager at a time can have a
// run directory.
func Open(cfg Config) (*Manager, error) {
	m, err := open(cfg)
	if err != nil { // m is closed already
		return nil, fmt.Errorf("open network: %w", err)
	}
	return m, nil
}

func open(cfg Config) (_ *Manager, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	m := &Manager{
		Keeper: netns.Keeper{Pins: netns.Dir(filepath.Join(cfg.RunDir, "netns"))},
		log:    cfg.Logger, routes: make(chan *rtnl.Conn, 4),
	}
	defer func() {
		if err != nil {
			m.closeFiles()
		}
	}()
	folder := filepath.Join(cfg.RunDir, "network")
	for _, d := range []string{folder, string(m.Pins)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if m.lock, err = sys.LockFile(filepath.Join(folder, "lock")); err != nil {
		return nil, fmt.Errorf("another process has the run directory %s: %w", cfg.RunDir, err)
	}
	if cfg.HostNetNS != "" {
		if m.host, err = sys.OpenNetNS(cfg.HostNetNS); err != nil {
			return nil, err
		}
	}
	routes, err := rtnl.Routes(m.host)
	if err != nil {
		return nil, err
	}
	if kept, err := Remembered(cfg.subnetsFile()); err != nil {
		m.log.Warn("the pod subnets that were set last are forgotten", "error", err)
	} else if kept != nil {
		cfg.Subnets = kept
	}
	if m.cfg, err = cfg.fit(routes); err != nil {
		return nil, err
	}
	m.table = firewall.New(m.cfg.Table, m.cfg.Bridge, m.host)
	if m.book, err = book.Open(folder, BootID(), m.cfg.Subnets, m.log); err != nil {
		return nil, err
	}
	m.startSpares()
	err = m.resume()
	return m, err
}

// resume brings back what the living need and removes what the dead left.
func (m *Manager) resume() error {
	ctx := context.Background()
	if m.cfg.Live != nil {
		if _, err := m.Repair(ctx, m.cfg.Live); err != nil {
			return err
		}
	}
	entries := m.book.Entries()
	if len(entries) == 0 {
		return nil
	}
	for _, e := range entries {
		// A port that somebody took while no daemon ran is still the pod's: the table says so.
		if err := m.hold(e); err != nil {
			m.log.Warn("a pod's host port can not be held", "sandbox", e.Owner, "error", err)
		}
	}
	_, err := m.ensure(ctx)
	return err
}

// Subnets returns the subnets that new pods get addresses of.
func (m *Manager) Subnets() []string {
	var out []string
	for _, s := range m.book.Configured() {
		out = append(out, s.String())
	}
	return out
}

// Close ends the Manager. While a sandbox is attached, bridge and table stay and do their work; when none
// is, they are removed.
func (m *Manager) Close() error {
	var err error
	m.closeSpares()
	if len(m.book.Entries()) == 0 {
		err = m.removeShared()
	}
	m.closeFiles()
	if err != nil {
		return fmt.Errorf("close network: %w", err)
	}
	return nil
}

// removeShared removes the table and the bridge, if they are ours.
func (m *Manager) removeShared() error {
	if err := failpoint.Here("network/table/delete/before"); err != nil {
		return err
	}
	exists, err := m.table.Exists()
	if err == nil && exists {
		err = m.table.Delete()
	}
	return errors.Join(err, failpoint.Here("network/bridge/delete/before"), m.removeBridge(), failpoint.Here("network/bridge/delete/after"))
}

func (m *Manager) closeFiles() {
	m.closeSpares()
	m.holds.closeAll()
	if m.table != nil {
		m.table.Close()
	}
	for {
		select {
		case c := <-m.routes:
			c.Close()
			continue
		default:
		}
		break
	}
	for _, f := range []*os.File{m.host, m.lock} {
		if f != nil {
			f.Close()
		}
	}
}

// onHost runs f on a connection to the host's namespace.
func (m *Manager) onHost(f func(c *rtnl.Conn) error) error {
	var c *rtnl.Conn
	select {
	case c = <-m.routes:
	default:
		var err error
		if c, err = rtnl.Dial(m.host); err != nil {
			return err
		}
	}
	err := f(c)
	select {
	case m.routes <- c:
	default:
		c.Close()
	}
	return err
}

// inHost runs f on a thread in the host's namespace.
func (m *Manager) inHost(f func() error) error {
	if m.host == nil {
		return f()
	}
	return sys.InNetNS(m.host, f)
}
