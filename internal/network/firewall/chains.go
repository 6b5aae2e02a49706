package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Names of linux/netfilter headers that have no home in package syscall.
const (
	ctStatusDNAT   = 1 << 5 // IPS_DST_NAT
	addrTypeLocal  = 2      // RTN_LOCAL
	reg1           = 1      // NFT_REG_1: 16 bytes, the same as the four registers reg32_00…
	reg32          = 8      // NFT_REG32_00
	v4src, v4dst   = 12, 16 // offsets in the IPv4 header
	v6src, v6dst   = 8, 24  // offsets in the IPv6 header
	portDst        = 2      // offset in the TCP, UDP and SCTP header
	nfProtoIPv4    = syscall.AF_INET
	nfProtoIPv6    = syscall.AF_INET6
	loopbackPrefix = "127.0.0.0/8"
)

// chain is one of the table's chains with its rules.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

func (c *chain) rule(parts ...[]expr.Any) { c.rules = append(c.rules, slices.Concat(parts...)) }

func (t *Table) addChains(c *nftables.Conn, subnets []netip.Prefix) {
	all := t.chains(subnets)
	for _, ch := range all {
		c.AddChain(ch.Chain)
	}
	for _, ch := range all {
		for _, exprs := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t.table(), Chain: ch.Chain, Exprs: exprs})
		}
	}
}

// chains are what the table has besides its maps, those that are jumped to first.
func (t *Table) chains(subnets []netip.Prefix) []*chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *chain {
		return &chain{Chain: &nftables.Chain{Table: t.table(), Name: name, Type: kind, Hooknum: hook, Priority: &priority}}
	}
	ports := &chain{Chain: &nftables.Chain{Table: t.table(), Name: "ports"}}
	ports.rule(family(nfProtoIPv4), dnat(mapOn4, nfProtoIPv4))
	ports.rule(family(nfProtoIPv4), dnat(mapAll4, nfProtoIPv4))
	ports.rule(family(nfProtoIPv6), dnat(mapOn6, nfProtoIPv6))
	ports.rule(family(nfProtoIPv6), dnat(mapAll6, nfProtoIPv6))

	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "ports"}}
	prerouting := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	prerouting.rule(toLocal(), jump)
	output := base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	// The kernel routes no answer back to ::1: the daemon relays what comes there, from the sockets that hold the ports.
	output.rule(to(netip.MustParsePrefix("::1/128")), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	output.rule(toLocal(), jump)

	postrouting := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	for _, s := range subnets {
		// What leaves the pods' network takes the host's address.
		postrouting.rule(from(s), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpNeq), masquerade)
		// A pod that came by a host port must answer by the host, also to its neighbours and to itself.
		postrouting.rule(from(s), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpEq), translated(), masquerade)
	}
	// The host's own processes come from 127.0.0.1, which means something else in the pod.
	postrouting.rule(from(netip.MustParsePrefix(loopbackPrefix)), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpEq), masquerade)

	// The bridge has route_localnet, for the answers to the host's own processes. Without this rule it would
	// also let pods reach what listens on the host's 127.0.0.1 (CVE-2020-8558).
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	guard.rule(iface(expr.MetaKeyIIFNAME, t.bridge, expr.CmpOpEq), to(netip.MustParsePrefix(loopbackPrefix)),
		[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	return []*chain{ports, prerouting, output, postrouting, guard}
}

// Missing tells which chains of the table are not there, or have lost rules. A table that is not there is one
// thing that is missing.
func (t *Table) Missing(subnets []netip.Prefix) ([]string, error) {
	exists, err := t.Exists()
	if err != nil || !exists {
		return []string{"the table " + t.name + " is missing"}, err
	}
	var out []string
	for _, ch := range t.chains(subnets) {
		var rules []*nftables.Rule
		err := t.with("list chain "+ch.Name, func(c *nftables.Conn) (err error) {
			rules, err = c.GetRules(t.table(), ch.Chain)
			return err
		})
		switch {
		case IsMissing(err):
			out = append(out, fmt.Sprintf("the chain %s of table %s is missing", ch.Name, t.name))
		case err != nil:
			return nil, err
		case len(rules) < len(ch.rules):
			out = append(out, fmt.Sprintf("the chain %s of table %s has %d of its %d rules", ch.Name, t.name, len(rules), len(ch.rules)))
		}
	}
	return out, nil
}

// family matches packets of an address family.
func family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{f}},
	}
}

// from and to match packets by source and destination.
func from(p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return within(nfProtoIPv4, v4src, p)
	}
	return within(nfProtoIPv6, v6src, p)
}

func to(p netip.Prefix) []expr.Any {
	if p.Addr().Is4() {
		return within(nfProtoIPv4, v4dst, p)
	}
	return within(nfProtoIPv6, v6dst, p)
}

func within(fam byte, offset uint32, p netip.Prefix) []expr.Any {
	size := uint32(p.Addr().BitLen() / 8)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(family(fam),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: p.Masked().Addr().AsSlice()},
	)
}

// iface compares the name of the incoming or outgoing interface.
func iface(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, 16) // IFNAMSIZ
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: reg1},
		&expr.Cmp{Op: op, Register: reg1, Data: padded},
	}
}

// toLocal matches packets whose destination is an address of the host.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(addrTypeLocal)},
	}
}

// translated matches connections whose destination was rewritten.
func translated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg1},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctStatusDNAT), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// dnat looks the packet up in a map and rewrites its destination to what it finds. Nothing found ends the
// rule. The key lies in four-byte registers side by side: [address,] protocol, port.
func dnat(mapName string, fam byte) []expr.Any {
	var load []expr.Any
	at := uint32(reg32)
	size := uint32(4)
	offset := uint32(v4dst)
	if fam == nfProtoIPv6 {
		size, offset = 16, v6dst
	}
	if mapName == mapOn4 || mapName == mapOn6 {
		load = append(load, &expr.Payload{DestRegister: at, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size})
		at += size / 4
	}
	return append(load,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at},
		&expr.Payload{DestRegister: at + 1, Base: expr.PayloadBaseTransportHeader, Offset: portDst, Len: 2},
		&expr.Lookup{SourceRegister: reg32, DestRegister: reg32, IsDestRegSet: true, SetName: mapName},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(fam), RegAddrMin: reg32, RegProtoMin: reg32 + size/4, Specified: true},
	)
}
