package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// dummy makes one end of a veth with an address.
func dummy(t *testing.T, name string) {
	t.Helper()
	needRoot(t)
	s, err := sys.OpenRouteSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	kind := attribute(nil, unix.IFLA_INFO_KIND, []byte("veth"))
	b := attribute(linkMessage(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
	b = attribute(b, unix.IFLA_LINKINFO, kind)
	if err := request(s, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		t.Skipf("this kernel makes no veth: %v", err)
	}
	t.Cleanup(func() { // if it is still here
		if i, err := net.InterfaceByName(name); err == nil {
			s, err := sys.OpenRouteSocket()
			if err == nil {
				request(s, unix.RTM_DELLINK, 0, linkMessage(i.Index, 0))
				s.Close()
			}
		}
	})
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	a := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 24, 0, unix.RT_SCOPE_UNIVERSE}, uint32(i.Index))
	a = attribute(a, unix.IFA_LOCAL, []byte{192, 0, 2, 7})
	if err := request(s, unix.RTM_NEWADDR, unix.NLM_F_CREATE, attribute(a, unix.IFA_ADDRESS, []byte{192, 0, 2, 7})); err != nil {
		t.Fatal(err)
	}
}

func TestNetDevices(t *testing.T) {
	name := fmt.Sprintf("bt%d", os.Getpid()%100000)
	for rename, want := range map[string]string{"": name, "eth9": "eth9", "net%d": "net0"} {
		dummy(t, name)
		o := options(t, "sh", "-c", "ip -o -4 addr show dev "+want+"; cat /sys/class/net/"+want+"/flags")
		if err := os.Symlink("busybox", o.Spec.Root.Path+"/bin/ip"); err != nil {
			t.Fatal(err)
		}
		o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		o.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: rename}}
		out, st := run(t, o)
		if st.Code != 0 || !strings.Contains(out, "192.0.2.7/24") || !strings.HasSuffix(strings.TrimSpace(out), "3") { // UP is bit 0
			t.Errorf("%q: %q, %+v", rename, out, st)
		}
		if _, err := net.InterfaceByName(name); err == nil {
			t.Errorf("%q: the device is still on the host", rename)
		}
	}
	o := options(t, "true")
	o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	o.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"not-there": {}}
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "linux.netDevices: not-there") {
		t.Errorf("got %v", err)
	}
	o.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {Name: "a/b"}}
	if _, err := Create(context.Background(), o); err == nil || !strings.Contains(err.Error(), "linux.netDevices") {
		t.Errorf("got %v", err)
	}
}
