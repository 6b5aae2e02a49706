package netns

import (
	"os"
	"testing"
)

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/conf/eth0.1/rp_filter":   "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net.ipv4.conf.eth0/1.rp_filter":   "/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
		"net.core.somaxconn":               "/proc/sys/net/core/somaxconn",
		"kernel.shm_rmid_forced":           "",
		"net":                              "",
		"net.":                             "",
		"net..core":                        "",
		"net/../kernel/core_pattern":       "",
		"net./../kernel.core_pattern":      "",
		"net.ipv4.//.kernel":               "",
		"network.x":                        "",
		"net/ipv4/conf/a\x00b":             "",
		"/net/ipv4/ip_forward":             "",
		"net.ipv4.conf./../../../x.y":      "",
		"net.ipv4.conf.a/../../b.c":        "",
		"net/ipv4/./ip_forward":            "",
		"net.ipv4.ip_local_port_range.eth": "/proc/sys/net/ipv4/ip_local_port_range/eth",
	} {
		got, err := sysctlPath(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestCreateWithoutPrivileges(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("needs to be somebody else than root")
	}
	d := Dir(t.TempDir())
	if _, err := d.Create("a", nil); err == nil {
		t.Error("a namespace was made")
	}
	if got, err := d.List(); len(got) > 0 || err != nil {
		t.Errorf("left: %v, %v", got, err)
	}
}
