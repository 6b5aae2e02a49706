package network

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"syscall"
	"testing"
	"time"
)

const sctp = 132 // IPPROTO_SCTP

var sctpPort = PortMapping{Protocol: "SCTP", HostPort: 9899, ContainerPort: 3868}

// The first packets of an association (RFC 9260, sections 3.3.2 and 3.3.3) by way of a host port, from raw sockets:
// the kernel translates them, whether or not it has SCTP of its own.
func TestSCTPPort(t *testing.T) {
	h := newHost(t, nil)
	h.World()
	web := h.pod("web", sctpPort)
	if got := h.items("web"); len(got) != 4 || got[3].Name != "sctp *:9899 → 10.88.0.2:3868" || got[3].Note != "" {
		t.Errorf("inventory: %v", got)
	}
	h.healthy("web")
	if sctpSockets() {
		t.Skip("this kernel's own SCTP would answer first: TestSCTPAssociation goes all the way")
	}
	client, server := h.raw("outside", outside4), h.raw("web", web.IPs[0].String())
	const init, initAck = 1, 2
	send(t, client, sctpPacket(40000, 9899, 0, init), hostOutside4)
	got, from := receive(t, server)
	if want := sctpPacket(40000, 3868, 0, init); string(got) != string(want) || from != outside4 {
		t.Fatalf("the pod got\n%x from %s, want\n%x", got, from, want)
	}
	send(t, server, sctpPacket(3868, 40000, initTag, initAck), outside4)
	got, from = receive(t, client)
	if want := sctpPacket(9899, 40000, initTag, initAck); string(got) != string(want) || from != hostOutside4 {
		t.Errorf("the client got\n%x from %s, want\n%x", got, from, want)
	}
}

const initTag = 0x12345678

// sctpPacket has one chunk, INIT or INIT ACK, with a checksum.
func sctpPacket(from, to uint16, tag uint32, chunk byte) []byte {
	b := make([]byte, 12+20)
	order := binary.BigEndian
	order.PutUint16(b, from)
	order.PutUint16(b[2:], to)
	order.PutUint32(b[4:], tag)
	b[12] = chunk
	order.PutUint16(b[14:], 20) // length
	order.PutUint32(b[16:], initTag)
	order.PutUint32(b[20:], 1500) // receiver window
	order.PutUint16(b[24:], 1)    // streams out and in
	order.PutUint16(b[26:], 1)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func (h *host) raw(id, addr string) (c net.PacketConn) {
	h.Helper()
	h.In(id, func() (err error) { c, err = net.ListenPacket("ip4:132", addr); return err })
	h.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c net.PacketConn, b []byte, to string) {
	t.Helper()
	if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c net.PacketConn) (b []byte, from string) {
	t.Helper()
	b = make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	n, addr, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], addr.String()
}

func sctpSockets() bool {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, sctp)
	if err == nil {
		syscall.Close(fd)
	}
	return !errors.Is(err, syscall.EPROTONOSUPPORT)
}

// A whole association, where the kernel has SCTP: from outside, from the host's loopback, from the pod itself.
func TestSCTPAssociation(t *testing.T) {
	h := newHost(t, nil)
	if !sctpSockets() {
		t.Skip("this kernel has no SCTP; TestSCTPPort does what goes without")
	}
	h.World()
	web := h.pod("web", sctpPort)
	var listening int
	h.In("web", func() (err error) {
		if listening, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, sctp); err != nil {
			return err
		}
		return errors.Join(syscall.Bind(listening, &syscall.SockaddrInet4{Port: 3868, Addr: web.IPs[0].As4()}), syscall.Listen(listening, 10))
	})
	defer syscall.Close(listening)
	for _, c := range []struct{ from, to, seen string }{
		{"outside", hostOutside4, outside4}, {"", "127.0.0.1", "10.88.0.1"}, {"web", hostOutside4, "10.88.0.1"},
	} {
		h.In(c.from, func() error {
			fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, sctp)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return syscall.Connect(fd, &syscall.SockaddrInet4{Port: 9899, Addr: [4]byte(net.ParseIP(c.to).To4())})
		})
		fd, peer, err := syscall.Accept(listening)
		if err != nil {
			t.Fatal(err)
		}
		syscall.Close(fd)
		if got := net.IP(peer.(*syscall.SockaddrInet4).Addr[:]).String(); got != c.seen {
			t.Errorf("from %q: the server saw %s, want %s", c.from, got, c.seen)
		}
	}
}
