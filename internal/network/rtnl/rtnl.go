// Package rtnl speaks rtnetlink for the bridge: the bridge itself, the veth pairs of pods, addresses and
// routes.
//
// What lies on the path of a pod's start goes to the kernel in batches: several messages in one datagram,
// which the kernel works off in order, one system call for all of them. Everything else uses
// github.com/vishvananda/netlink as it is.
//
// A Conn belongs to the network namespace that it was dialled in. It knows nothing of sandboxes: names,
// addresses and aliases come from the caller.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"

	"github.com/11f9778f/berth/internal/sys"
)

// Conn is a connection to one network namespace. It is for one goroutine at a time.
type Conn struct {
	sock  *sys.RouteSocket
	found int // index of the link that the last batch asked for
}

// rooms has room for what one read may bring: each pod's start reads on several connections.
var rooms = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// Dial connects to the network namespace ns, or to that of the calling thread where ns is nil.
func Dial(ns *os.File) (*Conn, error) {
	var c *Conn
	open := func() error {
		sock, err := sys.OpenRouteSocket()
		if err == nil {
			c = &Conn{sock: sock}
		}
		return err
	}
	if ns == nil {
		return c, open()
	}
	err := sys.InNetNS(ns, open)
	return c, err
}

// Close closes the connection.
func (c *Conn) Close() error { return c.sock.Close() }

// message is one request of a batch.
type message struct {
	what string // for errors: "create link bth0"
	req  *nl.NetlinkRequest
	ok   []syscall.Errno // errors that mean success
}

// do sends the messages in one datagram. The kernel works off all of them, whatever becomes of the earlier
// ones; the error is that of the first that failed.
func (c *Conn) do(msgs ...message) error {
	var out []byte
	for i, m := range msgs {
		if i == len(msgs)-1 {
			m.req.Flags |= syscall.NLM_F_ACK // errors come unasked; one acknowledgement marks the end
		}
		out = append(out, m.req.Serialize()...)
		for len(out)%syscall.NLMSG_ALIGNTO != 0 {
			out = append(out, 0)
		}
	}
	if err := c.sock.Send(out); err != nil {
		return fmt.Errorf("%s: %w", msgs[0].what, err)
	}
	return c.collect(msgs)
}

// collect reads answers until that of the last message.
func (c *Conn) collect(msgs []message) error {
	buf := rooms.Get().(*[16 << 10]byte)
	defer rooms.Put(buf)
	var first error
	for {
		n, err := c.sock.Receive(buf[:])
		if err != nil {
			return fmt.Errorf("%s: %w", msgs[0].what, err)
		}
		answers, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("%s: %w", msgs[0].what, err)
		}
		for _, a := range answers {
			i := find(msgs, a.Header.Seq)
			switch {
			case i >= 0 && a.Header.Type == syscall.RTM_NEWLINK && len(a.Data) >= syscall.SizeofIfInfomsg:
				c.found = int(nl.DeserializeIfInfomsg(a.Data).Index)
				continue
			case i < 0 || a.Header.Type != syscall.NLMSG_ERROR:
				continue // of an earlier batch that was given up
			}
			if err := failure(msgs[i], a); err != nil && first == nil {
				first = err
			}
			if i == len(msgs)-1 {
				return first
			}
		}
	}
}

func find(msgs []message, seq uint32) int {
	for i, m := range msgs {
		if m.req.Seq == seq {
			return i
		}
	}
	return -1
}

// failure returns the error that answer a reports for m, with the kernel's own words where it has some.
func failure(m message, a syscall.NetlinkMessage) error {
	if len(a.Data) < 4 {
		return fmt.Errorf("%s: short answer from the kernel", m.what)
	}
	code := int32(binary.NativeEndian.Uint32(a.Data))
	if code == 0 {
		return nil
	}
	errno := syscall.Errno(-code)
	for _, ok := range m.ok {
		if errno == ok {
			return nil
		}
	}
	if words := extAck(a); words != "" {
		return fmt.Errorf("%s: %w (%s)", m.what, errno, words)
	}
	return fmt.Errorf("%s: %w", m.what, errno)
}

// extAck returns the message attribute of an extended acknowledgement (netlink(7), NETLINK_EXT_ACK).
func extAck(a syscall.NetlinkMessage) string {
	const (
		ackTLVs = 0x200
		msgAttr = 1 // NLMSGERR_ATTR_MSG
		header  = 4 + syscall.NLMSG_HDRLEN
	)
	if a.Header.Flags&ackTLVs == 0 || len(a.Data) <= header {
		return ""
	}
	attrs, err := nl.ParseRouteAttr(a.Data[header:])
	if err != nil {
		return ""
	}
	for _, attr := range attrs {
		if attr.Attr.Type == msgAttr {
			return nl.BytesToString(attr.Value)
		}
	}
	return ""
}

// IsMissing reports whether err says that a link, address or namespace is not there.
func IsMissing(err error) bool {
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO) || errors.Is(err, os.ErrNotExist)
}

// IsExisting reports whether err says that a link is there already.
func IsExisting(err error) bool { return errors.Is(err, syscall.EEXIST) }
