package book

import "net/netip"

// block is how many addresses are handed out between two writes of the state file. After a crash the pool
// goes on behind the block, so that none of its addresses is given again at once.
const block = 16

// pool hands out the addresses of one subnet, round and round. The first address is the gateway's, the
// network's own and, in IPv4, the broadcast address are never given.
//
// Invariant: next is in [first, last].
type pool struct {
	subnet      netip.Prefix
	first, last netip.Addr
	next        netip.Addr // to be tried first
	left        int        // how many may be given before the state file must be written again
}

// newPool returns the pool of subnet, which goes on at that of the addresses in resume that lies in it.
func newPool(subnet netip.Prefix, resume []netip.Addr) *pool {
	subnet = subnet.Masked()
	p := &pool{subnet: subnet, first: Gateway(subnet).Next(), last: lastUsable(subnet)}
	p.next = p.first
	for _, a := range resume {
		if p.contains(a) {
			p.next = a
		}
	}
	return p
}

// Gateway returns the address of a subnet's gateway: its first.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

func lastUsable(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	if p.Addr().Is4() {
		b[3]--
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

func (p *pool) contains(a netip.Addr) bool {
	return a.BitLen() == p.first.BitLen() && !a.Less(p.first) && !p.last.Less(a)
}

func (p *pool) after(a netip.Addr) netip.Addr {
	if a = a.Next(); p.contains(a) {
		return a
	}
	return p.first
}

// take returns the next free address. crossed is true when the state file must be written before the address
// is used.
func (p *pool) take(free func(netip.Addr) bool) (a netip.Addr, crossed, ok bool) {
	start := p.next
	for a = start; ; {
		if free(a) {
			break
		}
		if a = p.after(a); a == start {
			return netip.Addr{}, false, false
		}
	}
	for at := start; ; at = p.after(at) { // addresses in use count too: they are passed by
		p.left--
		if at == a {
			break
		}
	}
	p.next = p.after(a)
	return a, p.left < 0, true
}

// reserve returns where the pool is to go on after a crash, and allows a block of addresses until then.
func (p *pool) reserve() netip.Addr {
	p.left = block
	a := p.next
	for range block {
		a = p.after(a)
	}
	return a
}
