package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/11f9778f/berth/internal/network/firewall"
	"github.com/11f9778f/berth/internal/network/rtnl"
)

// Inventory lists everything that the network has on disk and in the kernel, by owner, with a note at what is
// not as it should be. It changes nothing.
func (m *Manager) Inventory(ctx context.Context) ([]Item, error) {
	var out []Item
	for _, list := range []func() ([]Item, error){func() ([]Item, error) { return ListPins(m.Pins) }, m.listLinks, m.listBook, m.listTable} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("network inventory: %w", err)
		}
		items, err := list()
		if err != nil {
			return nil, fmt.Errorf("network inventory: %w", err)
		}
		out = append(out, items...)
	}
	return out, nil
}

func (m *Manager) listLinks() ([]Item, error) {
	links, err := rtnl.List(m.host)
	if err != nil {
		return nil, err
	}
	var out []Item
	for _, l := range links {
		if id, ok := m.cfg.ownerOf(l.Alias); ok {
			it := Item{Kind: KindLink, Owner: id, Name: l.Name}
			if _, ok := m.book.Get(id); !ok {
				it.Note = "has no address in the book: on its way out, if its namespace is gone"
			}
			out = append(out, it)
		}
		if l.Name == m.cfg.Bridge {
			out = append(out, Item{Kind: KindBridge, Name: l.Name})
		}
	}
	return out, nil
}

func (m *Manager) listBook() ([]Item, error) {
	var out []Item
	for _, e := range m.book.Entries() {
		for _, a := range e.Addresses {
			out = append(out, Item{Kind: KindAddress, Owner: e.Owner, Name: a.Addr().String()})
		}
	}
	damaged, err := m.book.Damaged()
	for _, path := range damaged {
		out = append(out, Item{Kind: KindRecord, Name: path, Note: "a damaged record, set aside"})
	}
	return out, err
}

// listTable lays the book's host ports and the table's side by side.
func (m *Manager) listTable() ([]Item, error) {
	exists, err := m.table.Exists()
	if err != nil {
		return nil, err
	}
	open, err := m.table.List()
	if err != nil {
		return nil, err
	}
	var out []Item
	if exists {
		out = append(out, Item{Kind: KindTable, Name: m.cfg.Table})
	}
	for _, e := range m.book.Entries() {
		for _, f := range forwards(e) {
			it := Item{Kind: KindPort, Owner: e.Owner, Name: portName(f)}
			if i := slices.Index(open, f); i >= 0 {
				open = slices.Delete(open, i, i+1)
			} else {
				it.Note = "in the book, but not in the table"
			}
			out = append(out, it)
		}
	}
	for _, f := range open {
		out = append(out, Item{Kind: KindPort, Name: portName(f), Note: "in the table, but not in the book"})
	}
	return out, nil
}

func portName(f firewall.Forward) string {
	host := "*"
	if f.HostIP.IsValid() {
		host = f.HostIP.String()
	}
	return fmt.Sprintf("%s %s:%d → %s", f.Protocol, host, f.HostPort, f.To)
}

// Repair removes everything whose owner is not alive, and everything that nobody owns and nothing needs, and
// returns what it removed. live is asked for each owner while no other call for that owner is under way, so it
// must say yes for a sandbox from before its first CreateNetNS until after its last RemoveNetNS.
func (m *Manager) Repair(ctx context.Context, live func(id string) bool) ([]Item, error) {
	before, err := m.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	dead := map[string]bool{} // by owner: whether it was, and is removed
	var errs []error
	for _, it := range before {
		if _, seen := dead[it.Owner]; seen || it.Owner == "" {
			continue
		}
		gone, err := m.IfDead(ctx, it.Owner, live, func() error {
			return errors.Join(m.detachLocked(ctx, it.Owner), m.Pins.Remove(it.Owner))
		})
		dead[it.Owner] = gone
		errs = append(errs, err)
	}
	errs = append(errs, m.removeLinks(ctx, dead, live), m.removeStray(before))
	var removed []Item
	for _, it := range before {
		if dead[it.Owner] || (it.Owner == "" && it.Note != "") {
			removed = append(removed, it)
		}
	}
	return removed, errors.Join(errs...)
}

// dying is how long Repair gives the kernel to remove the links of namespaces that are gone. It does so for
// all of them together; by hand it takes some tens of milliseconds for each.
const dying = time.Second

// removeLinks sees to it that the links of dead owners go: by themselves, or by hand where somebody still
// holds the namespace.
func (m *Manager) removeLinks(ctx context.Context, dead map[string]bool, live func(string) bool) error {
	var errs []error
	for deadline := time.Now().Add(dying); ; {
		links, err := m.listLinks()
		if err != nil {
			return err
		}
		links = slices.DeleteFunc(links, func(it Item) bool { return !dead[it.Owner] })
		if len(links) == 0 {
			return nil
		}
		if time.Now().Before(deadline) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		for _, it := range links {
			_, err := m.IfDead(ctx, it.Owner, live, func() error {
				return m.onHost(func(c *rtnl.Conn) error { return c.DeleteLink(it.Name) })
			})
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// removeStray removes damaged records and host ports that are in the table alone.
func (m *Manager) removeStray(before []Item) error {
	stray := slices.ContainsFunc(before, func(it Item) bool { return it.Kind == KindPort && it.Owner == "" })
	var err error
	if stray {
		m.bridge.mu.Lock()
		err = m.buildTable()
		m.bridge.mu.Unlock()
	}
	return errors.Join(err, m.book.RemoveDamaged())
}
