// Package firewall keeps the nftables table of the bridge: masquerade for what leaves the pods' subnets, and
// host ports.
//
//	table inet berth
//	  map ports4   proto . host port              → pod address . pod port    open on every address
//	  map ports4on host address . proto . port    → pod address . pod port    open on one address
//	  map ports6, ports6on                          the same for IPv6
//	  chain ports        dnat by the four maps
//	  chain prerouting   what is for an address of the host goes to ports
//	  chain output       the same for the host's own processes
//	  chain postrouting  masquerade
//	  chain guard        nobody on the bridge reaches the host's 127.0.0.0/8
//
// A host port is one element of a map, so that adding and removing one costs the same however many there
// are. The table is built in one transaction: it is there whole or not at all.
//
// The package touches no table but its own. It does not know who owns a port.
package firewall

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// ErrNotSupported says that the kernel has no nftables, or not all of what the table needs.
var ErrNotSupported = errors.New("the kernel has no nf_tables with NAT (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET): " +
	"load the module nf_tables, or run the pod without host ports")

// Forward is one host port.
type Forward struct {
	// Protocol is "tcp", "udp" or "sctp".
	Protocol string
	// HostIP is the one address that the port is open on; the zero value means all of To's family.
	HostIP   netip.Addr
	HostPort uint16
	// To is the pod's address and port.
	To netip.AddrPort
}

// Table is the table of one bridge.
type Table struct {
	name, bridge string
	ns           *os.File

	mu   sync.Mutex // one transaction at a time
	conn *nftables.Conn
	sock *netlink.Conn // conn's socket
}

// New returns the table called name for a bridge in the network namespace ns, nil for the process's own. It
// asks nothing of the kernel.
func New(name, bridge string, ns *os.File) *Table { return &Table{name: name, bridge: bridge, ns: ns} }

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Name: t.name, Family: nftables.TableFamilyINet}
}

// timeLimit is for an answer that never comes.
const timeLimit = 10 * time.Second

// with runs f on the connection. It is kept open, because closing it after a removal waits for a grace period
// of the kernel, some ten milliseconds; after an error it is not, because answers may be left in it.
func (t *Table) with(what string, f func(c *nftables.Conn) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.dial()
	if err == nil {
		err = t.sock.SetDeadline(time.Now().Add(timeLimit))
	}
	if err == nil {
		err = f(t.conn)
	}
	if err != nil {
		t.hangUp()
		return fmt.Errorf("%s in table %s: %w", what, t.name, err)
	}
	return nil
}

func (t *Table) dial() (err error) {
	if t.conn != nil {
		return nil
	}
	opts := []nftables.ConnOption{
		nftables.AsLasting(),
		nftables.WithSockOptions(func(c *netlink.Conn) error { t.sock = c; return nil }),
	}
	if t.ns != nil {
		opts = append(opts, nftables.WithNetNSFd(int(t.ns.Fd())))
	}
	t.conn, err = nftables.New(opts...)
	if err != nil {
		t.conn, t.sock = nil, nil
	}
	return err
}

func (t *Table) hangUp() {
	if t.conn != nil {
		t.conn.CloseLasting()
	}
	t.conn, t.sock = nil, nil
}

// Close closes the connection to the kernel. The table stays.
func (t *Table) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hangUp()
}

// transact sends what build asks for as one transaction.
func (t *Table) transact(what string, build func(c *nftables.Conn) error) error {
	return t.with(what, func(c *nftables.Conn) error {
		if err := build(c); err != nil {
			return err
		}
		return c.Flush()
	})
}

// Build makes the table, or replaces the one that is there, with masquerade for the subnets and the given
// host ports, in one transaction. The error wraps ErrNotSupported where the kernel lacks nftables.
func (t *Table) Build(subnets []netip.Prefix, ports []Forward) error {
	err := t.transact("build", func(c *nftables.Conn) error {
		c.AddTable(t.table()) // so that there is something to delete
		c.DelTable(t.table())
		c.AddTable(t.table())
		if err := t.addMaps(c, ports); err != nil {
			return err
		}
		t.addChains(c, subnets)
		return nil
	})
	return unsupported(err)
}

// unsupported recognises what a kernel without (all of) nftables answers to a transaction that is correct.
func unsupported(err error) error {
	for _, e := range []error{syscall.EPROTONOSUPPORT, syscall.EAFNOSUPPORT, syscall.EOPNOTSUPP, syscall.ENOENT, syscall.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrNotSupported, err)
		}
	}
	return err
}

// Exists reports whether the table is there. A kernel without nftables has none.
func (t *Table) Exists() (bool, error) {
	var tables []*nftables.Table
	err := t.with("look", func(c *nftables.Conn) (err error) {
		tables, err = c.ListTablesOfFamily(nftables.TableFamilyINet)
		return err
	})
	if err != nil {
		if errors.Is(unsupported(err), ErrNotSupported) {
			return false, nil
		}
		return false, err
	}
	for _, have := range tables {
		if have.Name == t.name {
			return true, nil
		}
	}
	return false, nil
}

// Dropping names the chains of other tables, as nft(8) does ("ip filter FORWARD"), that drop forwarded packets
// unless a rule of theirs lets them pass, as Docker's and firewalld's do, and whose table has no rule for the
// bridge. An accept in our table can't overrule them.
func (t *Table) Dropping() ([]string, error) {
	var out []string
	err := t.with("list chains beside", func(c *nftables.Conn) error {
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, ch := range chains {
			family, ok := families[ch.Table.Family]
			if !ok || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
				continue
			}
			passes, err := t.named(c, ch.Table, chains)
			if err != nil {
				return err
			}
			if !passes {
				out = append(out, family+" "+ch.Table.Name+" "+ch.Name)
			}
		}
		return nil
	})
	return out, ignoreMissing(err)
}

// families are those that pods' packets pass, by the names of nft(8).
var families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// named tells whether a rule of another table has the bridge's name in it.
func (t *Table) named(c *nftables.Conn, table *nftables.Table, chains []*nftables.Chain) (bool, error) {
	name := append([]byte(t.bridge), 0)
	for _, ch := range chains {
		if ch.Table.Name != table.Name || ch.Table.Family != table.Family {
			continue
		}
		rules, err := c.GetRules(table, ch)
		if err != nil {
			return false, err
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if cmp, ok := e.(*expr.Cmp); ok && bytes.HasPrefix(append(cmp.Data, 0), name) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// Delete removes the table. A missing one is success.
func (t *Table) Delete() error {
	return t.transact("delete", func(c *nftables.Conn) error {
		c.AddTable(t.table())
		c.DelTable(t.table())
		return nil
	})
}

// IsMissing reports whether err says that the table, or what was to be removed from it, is not there.
func IsMissing(err error) bool { return errors.Is(err, syscall.ENOENT) }
