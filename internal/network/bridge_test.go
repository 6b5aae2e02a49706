package network

import (
	"testing"
)

func both(c *Config) { c.Subnets = append(c.Subnets, subnet4, subnet6) }

func TestPodsReachEachOtherTheGatewayAndOutside(t *testing.T) {
	h := newHost(t, both)
	h.world()
	a, b := h.pod("a"), h.pod("b")
	if a.IPs[0] == b.IPs[0] || a.IPs[1] == b.IPs[1] || len(a.IPs) != 2 {
		t.Fatalf("addresses: %v and %v", a.IPs, b.IPs)
	}
	h.serve("b", "tcp", ":80", "b")
	h.serve("b", "udp", ":53", "b")
	h.serve("", "tcp", ":8000", "host")
	h.serve("outside", "tcp", ":80", "outside")
	for i, ip := range b.IPs {
		at := func(p string) string { return "[" + ip.String() + "]:" + p }
		h.expect("a", "tcp", at("80"), "b saw "+a.IPs[i].String())
		h.expect("a", "udp", at("53"), "b saw "+a.IPs[i].String())
		h.expect("", "tcp", at("80"), "b saw "+b.Gateways[i].String())
		h.expect("b", "tcp", at("80"), "b saw "+ip.String()) // lo is up
		h.expect("a", "tcp", "["+a.Gateways[i].String()+"]:8000", "host saw "+a.IPs[i].String())
	}
	h.expect("a", "tcp", outside4+":80", "outside saw "+hostOutside4)
	h.expect("a", "tcp", "["+outside6+"]:80", "outside saw "+hostOutside6)
}
