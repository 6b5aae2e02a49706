package rtnl

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

func TestLast(t *testing.T) {
	for p, want := range map[string]string{
		"10.88.0.0/16": "10.88.255.255", "10.88.0.5/30": "10.88.0.7", "10.0.0.1/32": "10.0.0.1", "fd00::/124": "fd00::f", "0.0.0.0/0": "255.255.255.255",
	} {
		if got := Last(netip.MustParsePrefix(p)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

// answer builds what the kernel says to a request.
func answer(errno syscall.Errno, words string) syscall.NetlinkMessage {
	data := binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
	data = append(data, make([]byte, syscall.NLMSG_HDRLEN)...)
	a := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: syscall.NLMSG_ERROR}}
	if words != "" {
		a.Header.Flags = 0x200
		data = append(data, nl.NewRtAttr(1, nl.ZeroTerminated(words)).Serialize()...)
	}
	a.Data = data
	return a
}

func TestFailure(t *testing.T) {
	m := message{what: "create link x", ok: []syscall.Errno{syscall.EEXIST}}
	for _, ok := range []syscall.Errno{0, syscall.EEXIST} {
		if err := failure(m, answer(ok, "")); err != nil {
			t.Errorf("%v: %v", ok, err)
		}
	}
	err := failure(m, answer(syscall.EINVAL, "Device is up"))
	if !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), "create link x") || !strings.Contains(err.Error(), "Device is up") {
		t.Errorf("got %v", err)
	}
	short := answer(syscall.EINVAL, "")
	short.Data = short.Data[:2]
	if err := failure(m, short); err == nil {
		t.Error("a short answer passed for success")
	}
}

func TestErrors(t *testing.T) {
	if !IsMissing(syscall.ENODEV) || IsMissing(syscall.EEXIST) || !IsExisting(syscall.EEXIST) || IsExisting(nil) {
		t.Error("missing and existing are mixed up")
	}
}
