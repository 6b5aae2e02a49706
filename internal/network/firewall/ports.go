package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// Names of the maps. ID numbers a map within a transaction.
const (
	mapAll4 = "ports4"
	mapOn4  = "ports4on"
	mapAll6 = "ports6"
	mapOn6  = "ports6on"
)

var mapNames = []string{mapAll4, mapOn4, mapAll6, mapOn6}

// portMap describes one of the maps.
func (t *Table) portMap(name string) *nftables.Set {
	addr := nftables.TypeIPAddr
	if name == mapAll6 || name == mapOn6 {
		addr = nftables.TypeIP6Addr
	}
	key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	if name == mapOn4 || name == mapOn6 {
		key = append([]nftables.SetDatatype{addr}, key...)
	}
	return &nftables.Set{
		Table: t.table(), Name: name, ID: uint32(slices.Index(mapNames, name) + 1), IsMap: true,
		KeyType:      nftables.MustConcatSetType(key...),
		DataType:     nftables.MustConcatSetType(addr, nftables.TypeInetService),
		KeyByteOrder: binaryutil.BigEndian,
	}
}

func (f Forward) mapName() string {
	switch v4 := f.To.Addr().Is4(); {
	case v4 && f.HostIP.IsValid():
		return mapOn4
	case v4:
		return mapAll4
	case f.HostIP.IsValid():
		return mapOn6
	}
	return mapAll6
}

// protocols are the IP protocol numbers (RFC 1700 and after).
var protocols = map[string]byte{"tcp": syscall.IPPROTO_TCP, "udp": syscall.IPPROTO_UDP, "sctp": 132}

// element encodes a forward. Each part of a concatenation fills whole registers of four bytes.
func (f Forward) element() (nftables.SetElement, error) {
	proto, ok := protocols[f.Protocol]
	if !ok {
		return nftables.SetElement{}, fmt.Errorf("protocol %q: want tcp, udp or sctp", f.Protocol)
	}
	if f.HostIP.IsValid() && f.HostIP.Is4() != f.To.Addr().Is4() {
		return nftables.SetElement{}, fmt.Errorf("host address %s and pod address %s are of different families", f.HostIP, f.To.Addr())
	}
	var key []byte
	if f.HostIP.IsValid() {
		key = f.HostIP.AsSlice()
	}
	key = append(key, proto, 0, 0, 0)
	key = append(key, portBytes(f.HostPort)...)
	return nftables.SetElement{Key: key, Val: append(f.To.Addr().AsSlice(), portBytes(f.To.Port())...)}, nil
}

func portBytes(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

// decode is the inverse of element.
func decode(name string, e nftables.SetElement) (Forward, bool) {
	size := 4
	if name == mapAll6 || name == mapOn6 {
		size = 16
	}
	var f Forward
	key := e.Key
	if name == mapOn4 || name == mapOn6 {
		if len(key) < size {
			return f, false
		}
		f.HostIP, _ = netip.AddrFromSlice(key[:size])
		key = key[size:]
	}
	if len(key) != 8 || len(e.Val) != size+4 {
		return f, false
	}
	for p, number := range protocols {
		if number == key[0] {
			f.Protocol = p
		}
	}
	to, _ := netip.AddrFromSlice(e.Val[:size])
	f.HostPort = binary.BigEndian.Uint16(key[4:])
	f.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(e.Val[size:]))
	return f, f.Protocol != ""
}

// perMessage bounds a message's elements: an attribute of netlink is at most 64 KiB long.
const perMessage = 250

// byMap sorts forwards into the maps that they belong to, in portions that fit a message.
func byMap(ports []Forward) (map[string][][]nftables.SetElement, error) {
	out := map[string][][]nftables.SetElement{}
	for _, f := range ports {
		e, err := f.element()
		if err != nil {
			return nil, err
		}
		name := f.mapName()
		parts := out[name]
		if n := len(parts); n == 0 || len(parts[n-1]) == perMessage {
			parts = append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], e)
		out[name] = parts
	}
	return out, nil
}

func (t *Table) addMaps(c *nftables.Conn, ports []Forward) error {
	parts, err := byMap(ports)
	if err != nil {
		return err
	}
	for _, name := range mapNames {
		m := t.portMap(name)
		if err := c.AddSet(m, nil); err != nil {
			return err
		}
		for _, part := range parts[name] {
			if err := c.SetAddElements(m, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// Add opens host ports in one transaction: all or none. A port that is open to the same pod already is
// success. IsMissing is true of the error where the table is not there.
func (t *Table) Add(ports []Forward) error {
	return t.transact("open host ports", func(c *nftables.Conn) error {
		return t.elements(ports, c.SetAddElements)
	})
}

func (t *Table) elements(ports []Forward, do func(*nftables.Set, []nftables.SetElement) error) error {
	parts, err := byMap(ports)
	if err != nil {
		return err
	}
	for name, list := range parts {
		m := t.portMap(name)
		m.ID = 0 // the map is found by its name
		for _, part := range list {
			if err := do(m, part); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove closes host ports. Those that are not open are success, and so is a missing table.
func (t *Table) Remove(ports []Forward) error {
	remove := func(ports []Forward) error {
		return t.transact("close host ports", func(c *nftables.Conn) error {
			return t.elements(ports, c.SetDeleteElements)
		})
	}
	err := remove(ports)
	if !IsMissing(err) || len(ports) == 1 {
		return ignoreMissing(err)
	}
	// One that is missing fails the transaction: take them one by one.
	var errs []error
	for i := range ports {
		errs = append(errs, ignoreMissing(remove(ports[i:i+1])))
	}
	return errors.Join(errs...)
}

func ignoreMissing(err error) error {
	if IsMissing(err) || errors.Is(unsupported(err), ErrNotSupported) {
		return nil
	}
	return err
}

// List returns the host ports that are open. A missing table has none.
func (t *Table) List() ([]Forward, error) {
	ok, err := t.Exists()
	if !ok {
		return nil, err
	}
	var out []Forward
	for _, name := range mapNames {
		var elements []nftables.SetElement
		err := t.with("list map "+name, func(c *nftables.Conn) (err error) {
			elements, err = c.GetSetElements(t.portMap(name))
			return err
		})
		if IsMissing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if f, ok := decode(name, e); ok {
				out = append(out, f)
			}
		}
	}
	return out, nil
}
