package firewall

import (
	"net/netip"
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

func (t *Table) addChains(c *nftables.Conn, subnets []netip.Prefix) {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Table: t.table(), Name: name, Type: kind, Hooknum: hook, Priority: &priority})
	}
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t.table(), Chain: chain, Exprs: all})
	}

	ports := c.AddChain(&nftables.Chain{Table: t.table(), Name: "ports"})
	rule(ports, family(nfProtoIPv4), dnat(mapOn4, nfProtoIPv4))
	rule(ports, family(nfProtoIPv4), dnat(mapAll4, nfProtoIPv4))
	rule(ports, family(nfProtoIPv6), dnat(mapOn6, nfProtoIPv6))
	rule(ports, family(nfProtoIPv6), dnat(mapAll6, nfProtoIPv6))

	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "ports"}}
	prerouting := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	rule(prerouting, toLocal(), jump)
	output := base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	// The kernel routes no answer back to ::1. Clients that try it are refused at once, and go on to 127.0.0.1.
	rule(output, to(netip.MustParsePrefix("::1/128")), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}})
	rule(output, toLocal(), jump)

	postrouting := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	masquerade := []expr.Any{&expr.Masq{}}
	for _, s := range subnets {
		// What leaves the pods' network takes the host's address.
		rule(postrouting, from(s), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpNeq), masquerade)
		// A pod that came by a host port must answer by the host, also to its neighbours and to itself.
		rule(postrouting, from(s), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpEq), translated(), masquerade)
	}
	// The host's own processes come from 127.0.0.1, which means something else in the pod.
	rule(postrouting, from(netip.MustParsePrefix(loopbackPrefix)), iface(expr.MetaKeyOIFNAME, t.bridge, expr.CmpOpEq), masquerade)

	// The bridge has route_localnet, for the answers to the host's own processes. Without this rule it would
	// also let pods reach what listens on the host's 127.0.0.1 (CVE-2020-8558).
	guard := base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	rule(guard, iface(expr.MetaKeyIIFNAME, t.bridge, expr.CmpOpEq), to(netip.MustParsePrefix(loopbackPrefix)),
		[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
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
