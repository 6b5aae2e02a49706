// Package book keeps who owns which pod address and which host port.
//
// Each owner is one file, written whole and renamed into place before Claim returns, removed by Release.
// What is in memory is what the files say. Addresses go round: one that was released rests until all the
// others have had their turn, across restarts too. Files belong to one boot of the machine; those of an
// earlier boot are dropped by Open, as the kernel has dropped what they described.
//
// The book never gives an address or a port to two owners. It touches nothing but its folder.
package book

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/11f9778f/berth/internal/failpoint"
)

// Entry is what an owner has.
type Entry struct {
	Owner string `json:"owner"`
	// Pod names the owner for people; empty in records of an earlier release.
	Pod string `json:"pod,omitempty"`
	// Addresses are the owner's, with the length of their subnet; the gateway is the subnet's first.
	Addresses []netip.Prefix `json:"addresses"`
	Ports     []Port         `json:"ports,omitempty"`
	// Ingress and Egress limit the owner, in bits a second; 0 does not.
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// Want is what an owner asks for. Without IPs, of which there may be one of each subnet, the book chooses.
type Want struct {
	Pod             string // the owner's name, for whoever wants the same
	Ports           []Port
	IPs             []netip.Addr
	Ingress, Egress uint64
}

// Book is the address book. Calls for one owner must not overlap; calls for different owners may.
type Book struct {
	dir  string
	boot string
	log  *slog.Logger

	mu      sync.Mutex
	entries map[string]Entry
	byAddr  map[netip.Addr]string
	byPort  map[portKey][]string // owners; several when they use different host addresses
	pools   []*pool
}

type portKey struct {
	protocol string
	port     uint16
}

// Open reads the book in folder dir, which is made if it is missing. Damaged records are set aside and
// reported: their owners have nothing.
func Open(dir, boot string, subnets []netip.Prefix, log *slog.Logger) (*Book, error) {
	b := &Book{dir: dir, boot: boot, log: log, entries: map[string]Entry{}, byAddr: map[netip.Addr]string{}, byPort: map[portKey][]string{}}
	if err := os.MkdirAll(b.records(), 0o700); err != nil {
		return nil, fmt.Errorf("open address book: %w", err)
	}
	st, err := readState(b.stateFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the address book's state is damaged and starts afresh", "file", b.stateFile(), "error", err)
	}
	fresh := st.Boot != "" && st.Boot != boot
	if fresh {
		log.Info("the address book is of an earlier boot and starts afresh", "folder", dir)
		st = state{}
	}
	for _, s := range subnets {
		b.pools = append(b.pools, newPool(s, st.Next))
	}
	if err := b.load(fresh); err != nil {
		return nil, fmt.Errorf("open address book: %w", err)
	}
	return b, b.writeState()
}

func (b *Book) records() string   { return filepath.Join(b.dir, "sandboxes") }
func (b *Book) stateFile() string { return filepath.Join(b.dir, "book.json") }

const (
	suffix  = ".json"
	damaged = ".damaged" // put behind the name of a record that can't be read
)

func (b *Book) file(owner string) string { return filepath.Join(b.records(), owner+suffix) }

// load reads the records, or removes them where the book starts afresh.
func (b *Book) load(fresh bool) error {
	names, err := os.ReadDir(b.records())
	if err != nil {
		return err
	}
	for _, n := range names {
		path := filepath.Join(b.records(), n.Name())
		owner, ok := strings.CutSuffix(n.Name(), suffix)
		if fresh || (!ok && strings.HasSuffix(n.Name(), ".tmp")) {
			if err := os.Remove(path); err != nil { // half-written: it was never in force
				return err
			}
			continue
		}
		if !ok {
			continue
		}
		e, err := readEntry(path, owner)
		if err == nil {
			err = b.conflict(e)
		}
		if err != nil {
			b.log.Warn("a damaged record of the address book is set aside", "file", path, "error", err)
			if err := os.Rename(path, path+damaged); err != nil {
				return err
			}
			continue
		}
		b.enter(e)
	}
	return nil
}

func (b *Book) enter(e Entry) {
	b.entries[e.Owner] = e
	for _, a := range e.Addresses {
		b.byAddr[a.Addr()] = e.Owner
	}
	for _, p := range e.Ports {
		k := portKey{p.Protocol, p.HostPort}
		if !slices.Contains(b.byPort[k], e.Owner) {
			b.byPort[k] = append(b.byPort[k], e.Owner)
		}
	}
}

func (b *Book) strike(e Entry) {
	delete(b.entries, e.Owner)
	for _, a := range e.Addresses {
		delete(b.byAddr, a.Addr())
	}
	for _, p := range e.Ports {
		k := portKey{p.Protocol, p.HostPort}
		b.byPort[k] = slices.DeleteFunc(b.byPort[k], func(o string) bool { return o == e.Owner })
		if len(b.byPort[k]) == 0 {
			delete(b.byPort, k)
		}
	}
}

// Claim gives owner an address of each subnet, and the host ports. An owner that has an entry gets it
// again, and fresh is false. Errors wrap ErrTaken, ErrInvalid, ErrFull or ErrOther where that is the reason.
func (b *Book) Claim(owner string, w Want) (e Entry, fresh bool, err error) {
	e, fresh, err = b.choose(owner, w)
	if err != nil || !fresh {
		return e, false, err
	}
	if err := b.write(e); err != nil {
		b.mu.Lock()
		b.strike(e)
		b.mu.Unlock()
		os.Remove(b.file(owner))
		return Entry{}, false, fmt.Errorf("write record of %s: %w", owner, err)
	}
	return e, true, nil
}

func (b *Book) write(e Entry) error {
	if err := failpoint.Here("network/book/write/before"); err != nil {
		return err
	}
	if err := writeEntry(b.file(e.Owner), e); err != nil {
		return err
	}
	return failpoint.Here("network/book/write/after")
}

func (b *Book) choose(owner string, w Want) (Entry, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.entries[owner]; ok {
		if !e.satisfies(w) {
			return Entry{}, false, fmt.Errorf("%w: has %+v, asks for %+v", ErrOther, e, w)
		}
		return e, false, nil
	}
	if err := cmp.Or(b.portConflict(owner, w.Ports), b.addressConflict(w.IPs)); err != nil {
		return Entry{}, false, err
	}
	e := Entry{Owner: owner, Pod: w.Pod, Ports: slices.Clone(w.Ports), Ingress: w.Ingress, Egress: w.Egress}
	note := false
	for _, p := range b.pools {
		if i := slices.IndexFunc(w.IPs, p.contains); i >= 0 {
			e.Addresses = append(e.Addresses, netip.PrefixFrom(w.IPs[i], p.subnet.Bits()))
			continue
		}
		a, crossed, ok := p.take(func(a netip.Addr) bool { _, taken := b.byAddr[a]; return !taken })
		if !ok {
			return Entry{}, false, fmt.Errorf("%w: all of %s are in use", ErrFull, p.subnet)
		}
		note = note || crossed
		e.Addresses = append(e.Addresses, netip.PrefixFrom(a, p.subnet.Bits()))
	}
	if note {
		if err := b.writeStateLocked(); err != nil {
			return Entry{}, false, err
		}
	}
	b.enter(e)
	return e, true, nil
}

// Release strikes owner's entry. An unknown owner is success.
func (b *Book) Release(owner string) error {
	if err := failpoint.Here("network/book/remove/before"); err != nil {
		return err
	}
	if err := os.Remove(b.file(owner)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of %s: %w", owner, err)
	}
	b.mu.Lock()
	if e, ok := b.entries[owner]; ok {
		b.strike(e)
	}
	b.mu.Unlock()
	return failpoint.Here("network/book/remove/after")
}

// Get returns owner's entry.
func (b *Book) Get(owner string) (Entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.entries[owner]
	return e, ok
}

// Entries returns all entries, sorted by owner.
func (b *Book) Entries() []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Entry, 0, len(b.entries))
	for _, e := range b.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(x, y Entry) int { return strings.Compare(x.Owner, y.Owner) })
	return out
}

// SetSubnets changes where new addresses come from. Who has one keeps it.
func (b *Book) SetSubnets(subnets []netip.Prefix) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.pools
	b.pools = nil
	for _, s := range subnets {
		i := slices.IndexFunc(old, func(p *pool) bool { return p.subnet == s.Masked() })
		if i >= 0 {
			b.pools = append(b.pools, old[i])
			continue
		}
		b.pools = append(b.pools, newPool(s, nil))
	}
	return b.writeStateLocked()
}

// Configured returns the subnets that new addresses come from.
func (b *Book) Configured() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []netip.Prefix
	for _, p := range b.pools {
		out = append(out, p.subnet)
	}
	return out
}

// Subnets returns the subnets of the configuration and those that entries of an earlier one are in.
func (b *Book) Subnets() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []netip.Prefix
	seen := func(p netip.Prefix) {
		if p = p.Masked(); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range b.pools {
		seen(p.subnet)
	}
	for _, e := range b.entries {
		for _, a := range e.Addresses {
			seen(a)
		}
	}
	return out
}

func (b *Book) writeState() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.writeStateLocked()
}

// writeStateLocked runs under the lock, once in some dozen claims.
func (b *Book) writeStateLocked() error {
	st := state{Version: version, Boot: b.boot}
	for _, p := range b.pools {
		st.Next = append(st.Next, p.reserve())
	}
	if err := writeJSON(b.stateFile(), st); err != nil {
		return fmt.Errorf("write the address book's state: %w", err)
	}
	return nil
}

// Damaged returns the files that were set aside because they could not be read.
func (b *Book) Damaged() ([]string, error) {
	out, err := filepath.Glob(filepath.Join(b.records(), "*"+damaged))
	if err != nil {
		return nil, fmt.Errorf("list damaged records: %w", err)
	}
	return out, nil
}

// RemoveDamaged removes those files.
func (b *Book) RemoveDamaged() error {
	files, err := b.Damaged()
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}
