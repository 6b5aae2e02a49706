package dnsconf

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolvConf(t *testing.T) {
	d := DNS{Servers: []string{"10.0.0.1", "fe80::1%eth0"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5", "edns0"}}
	text, err := ResolvConf(d)
	want := "search a.b c\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
	if text != want || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if text, err := ResolvConf(DNS{}); text != "" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	for _, bad := range []DNS{
		{Servers: []string{"1.1.1.1\nsearch evil.com"}}, {Searches: []string{"a b"}}, {Options: []string{""}}, {Searches: []string{"#"}},
	} {
		if text, err := ResolvConf(bad); err == nil {
			t.Errorf("%v became %q", bad, text)
		}
	}
}

func TestHosts(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2")}
	got, err := Hosts(ips, "web")
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(got, "\n10.88.0.2\tweb\nfd88::2\tweb\n") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := Hosts(ips, ""); strings.Contains(got, "10.88") || err != nil {
		t.Errorf("without a name: %q, %v", got, err)
	}
	for _, bad := range []string{"web\n6.6.6.6 bank.com", "a b", "#"} {
		if got, err := Hosts(ips, bad); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// A node with systemd-resolved names 127.0.0.53, which in a pod is the pod itself.
func TestNodeFile(t *testing.T) {
	dir := t.TempDir()
	const stub, real = "nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.1\n"
	for i, c := range []struct {
		file, instead string
		second        bool
	}{
		{real, real, false}, {stub, real, true}, {stub, stub, false}, {stub, "", false}, {"", real, false},
		{stub + real, real, false}, {"nameserver ::1\n", real, true}, {"nameserver fe80::1%eth0\n", real, false},
	} {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		for path, text := range map[string]string{a: c.file, b: c.instead} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := choose(a, b); (got == b) != c.second {
			t.Errorf("%d: %s", i, got)
		}
	}
	if got := choose(filepath.Join(dir, "none"), filepath.Join(dir, "b")); got != filepath.Join(dir, "none") {
		t.Error("a node without the file:", got)
	}
}
