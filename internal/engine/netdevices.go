package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// moveDevices moves the host's network devices of the spec into the container's network namespace, that of process pid or the one it is to join: renamed if it says so, with
// their permanent global addresses, and up (runtime-spec config-linux.md, Network Devices).
func moveDevices(pid int, s *specs.Spec) error {
	devices := s.Linux.NetDevices
	if len(devices) == 0 {
		return nil
	}
	own, _ := namespace(s, specs.NetworkNamespace)
	if own.Path == "" {
		own.Path = fmt.Sprintf("/proc/%d/ns/net", pid)
	}
	ns, err := openNamespace(own)
	if err != nil {
		return err
	}
	defer ns.Close()
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if err := moveDevice(ns, name, devices[name].Name); err != nil {
			return fmt.Errorf("linux.netDevices: %s: %w", name, err)
		}
	}
	return nil
}

func moveDevice(ns *os.File, name, rename string) error {
	if rename == "" {
		rename = name
	}
	device, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	addresses, err := permanentAddresses(device.Index)
	if err != nil {
		return err
	}
	s, err := sys.OpenRouteSocket()
	if err != nil {
		return err
	}
	defer s.Close()
	before, err := indexes(ns)
	if err != nil {
		return err
	}
	move := linkMessage(device.Index, 0)
	move = attribute(move, unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(ns.Fd())))
	move = attribute(move, unix.IFLA_IFNAME, append([]byte(rename), 0))
	if err := request(s, unix.RTM_NEWLINK, 0, move); err != nil {
		return fmt.Errorf("move to the container as %s: %w", rename, err)
	}
	return sys.InNetNS(ns, func() error { return raise(before, addresses) })
}

// indexes are the numbers of the devices in a network namespace.
func indexes(ns *os.File) (list []int, err error) {
	err = sys.InNetNS(ns, func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			list = append(list, i.Index)
		}
		return err
	})
	return list, err
}

// raise gives the one device that is new here its addresses, and sets it up.
func raise(before []int, addresses []address) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(i net.Interface) bool { return !slices.Contains(before, i.Index) })
	if at < 0 {
		return errors.New("it was moved, and is not there")
	}
	s, err := sys.OpenRouteSocket()
	if err != nil {
		return err
	}
	defer s.Close()
	for _, a := range addresses {
		if err := request(s, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a.message(all[at].Index)); err != nil {
			return fmt.Errorf("set address: %w", err)
		}
	}
	if err := request(s, unix.RTM_NEWLINK, 0, linkMessage(all[at].Index, unix.IFF_UP)); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}

// address is what is needed to set an address again.
type address struct {
	family, prefix, scope byte
	attributes            []syscall.NetlinkRouteAttr
}

// permanentAddresses lists a device's addresses that were set for good and for the whole world.
func permanentAddresses(index int) ([]address, error) {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, os.NewSyscallError("netlinkrib", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("read addresses: %w", err)
	}
	var list []address
	for _, m := range messages {
		// struct ifaddrmsg: family, prefixlen, flags, scope, index
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, fmt.Errorf("read addresses: %w", err)
		}
		a := address{family: m.Data[0], prefix: m.Data[1], scope: m.Data[3]}
		flags := uint32(m.Data[2])
		for _, at := range attributes {
			switch at.Attr.Type {
			case unix.IFA_FLAGS:
				flags = binary.NativeEndian.Uint32(at.Value)
			case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST:
				a.attributes = append(a.attributes, at)
			}
		}
		if flags&unix.IFA_F_PERMANENT != 0 && a.scope == unix.RT_SCOPE_UNIVERSE {
			list = append(list, a)
		}
	}
	return list, nil
}

func (a address) message(index int) []byte {
	b := binary.NativeEndian.AppendUint32([]byte{a.family, a.prefix, 0, a.scope}, uint32(index))
	for _, at := range a.attributes {
		b = attribute(b, at.Attr.Type, at.Value)
	}
	return b
}

// linkMessage is a struct ifinfomsg that sets flags.
func linkMessage(index int, flags uint32) []byte {
	b := []byte{unix.AF_UNSPEC, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, flags)
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// request sends one message and reads the kernel's answer to it.
func request(s *sys.RouteSocket, kind, flags uint16, body []byte) error {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // sequence, port
	if err := s.Send(append(b, body...)); err != nil {
		return err
	}
	answer := make([]byte, 8192)
	n, err := s.Receive(answer)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return errors.New("unexpected answer from the kernel")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// validateNetDevices checks names: the kernel's limit is 15 bytes.
func validateNetDevices(s *specs.Spec) error {
	if len(s.Linux.NetDevices) == 0 {
		return nil
	}
	if _, ok := namespace(s, specs.NetworkNamespace); !ok {
		return errors.New("linux.netDevices need a network namespace")
	}
	for name, d := range s.Linux.NetDevices {
		for _, n := range []string{name, d.Name} {
			if len(n) >= unix.IFNAMSIZ || n == "." || n == ".." || strings.ContainsAny(n, "/: \t\n\x00") || n == "" && n == name {
				return fmt.Errorf("linux.netDevices: %q is no name of a network device", n)
			}
		}
	}
	return nil
}
