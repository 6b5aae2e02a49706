package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
)

func TestElementsRoundTrip(t *testing.T) {
	for _, f := range []Forward{
		{Protocol: "tcp", HostPort: 80, To: netip.MustParseAddrPort("10.88.0.2:8080")},
		{Protocol: "udp", HostPort: 65535, HostIP: netip.MustParseAddr("127.0.0.1"), To: netip.MustParseAddrPort("10.88.0.2:1")},
		{Protocol: "sctp", HostPort: 1, To: netip.MustParseAddrPort("[fd00::2]:65535")},
		{Protocol: "tcp", HostPort: 443, HostIP: netip.MustParseAddr("2001:db8::1"), To: netip.MustParseAddrPort("[fd00::2]:443")},
	} {
		e, err := f.element()
		if err != nil {
			t.Fatal(err)
		}
		if want := int(New("t", "b", nil).portMap(f.mapName()).KeyType.Bytes); len(e.Key) != want {
			t.Errorf("%v: key of %d bytes, the map %s wants %d", f, len(e.Key), f.mapName(), want)
		}
		if want := int(New("t", "b", nil).portMap(f.mapName()).DataType.Bytes); len(e.Val) != want {
			t.Errorf("%v: value of %d bytes, the map %s wants %d", f, len(e.Val), f.mapName(), want)
		}
		if got, ok := decode(f.mapName(), e); !ok || got != f {
			t.Errorf("%v became %v, %v", f, got, ok)
		}
	}
	for _, f := range []Forward{
		{Protocol: "icmp", HostPort: 80, To: netip.MustParseAddrPort("10.88.0.2:80")},
		{Protocol: "tcp", HostPort: 80, HostIP: netip.MustParseAddr("::1"), To: netip.MustParseAddrPort("10.88.0.2:80")},
	} {
		if _, err := f.element(); err == nil {
			t.Errorf("%v was accepted", f)
		}
	}
}

func TestPortionsFitAMessage(t *testing.T) {
	var ports []Forward
	for i := range 1000 {
		ports = append(ports, Forward{Protocol: "tcp", HostPort: uint16(i + 1), To: netip.MustParseAddrPort("10.88.0.2:80")})
	}
	parts, err := byMap(ports)
	if err != nil || len(parts) != 1 {
		t.Fatal(parts, err)
	}
	n := 0
	for _, p := range parts[mapAll4] {
		if n += len(p); len(p) > perMessage {
			t.Errorf("%d elements in one message", len(p))
		}
	}
	if n != 1000 {
		t.Errorf("%d elements, want 1000", n)
	}
}

func TestKernelWithoutNFTables(t *testing.T) {
	for _, e := range []error{syscall.EPROTONOSUPPORT, syscall.EOPNOTSUPP} {
		if err := unsupported(fmt.Errorf("netlink receive: %w", e)); !errors.Is(err, ErrNotSupported) || !errors.Is(err, e) {
			t.Errorf("%v became %v", e, err)
		}
	}
	for _, e := range []error{nil, syscall.EPERM, syscall.EBUSY} {
		if err := unsupported(e); errors.Is(err, ErrNotSupported) {
			t.Errorf("%v became %v", e, err)
		}
	}
}
