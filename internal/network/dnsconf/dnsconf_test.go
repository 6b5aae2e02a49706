package dnsconf

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestForPod(t *testing.T) {
	host := DNS{Servers: []string{"127.0.0.53", "192.0.2.53"}, Searches: []string{"example.com"}, Options: []string{"edns0", "timeout:1"}}
	cluster := Cluster{Servers: []string{"10.96.0.10"}, Domain: "cluster.local"}
	inCluster := DNS{
		Servers:  []string{"10.96.0.10"},
		Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"},
		Options:  []string{"ndots:5"},
	}
	reachable := DNS{Servers: []string{"192.0.2.53"}, Searches: host.Searches, Options: host.Options}
	for _, c := range []struct {
		name        string
		policy      Policy
		hostNetwork bool
		cluster     Cluster
		own         DNS
		want        DNS
	}{
		{name: "cluster first", policy: ClusterFirst, cluster: cluster, want: inCluster},
		{name: "no policy is cluster first", cluster: cluster, want: inCluster},
		{name: "no cluster", policy: ClusterFirst, want: reachable},
		{name: "default", policy: Default, cluster: cluster, want: reachable},
		{name: "cluster first on the host's network", policy: ClusterFirst, hostNetwork: true, cluster: cluster, want: host},
		{name: "with host net", policy: ClusterFirstWithHostNet, hostNetwork: true, cluster: cluster, want: inCluster},
		{name: "none", policy: None, cluster: cluster, own: DNS{Servers: []string{"1.1.1.1"}}, want: DNS{Servers: []string{"1.1.1.1"}}},
		{
			name: "own is added", policy: Default,
			own: DNS{Servers: []string{"192.0.2.53", "1.1.1.1"}, Searches: []string{"a.b"}, Options: []string{"timeout:3", "rotate"}},
			want: DNS{
				Servers: []string{"192.0.2.53", "1.1.1.1"}, Searches: []string{"example.com", "a.b"},
				Options: []string{"edns0", "timeout:3", "rotate"},
			},
		},
	} {
		got, dropped := ForPod(c.policy, "ns", c.hostNetwork, host, c.cluster, c.own)
		if !reflect.DeepEqual(got, c.want) || len(dropped) > 0 {
			t.Errorf("%s:\n got %v, dropped %v\nwant %v", c.name, got, dropped, c.want)
		}
	}
	if !reflect.DeepEqual(host.Options, []string{"edns0", "timeout:1"}) {
		t.Error("the host's configuration was changed")
	}
}

func TestLimits(t *testing.T) {
	own := DNS{Servers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}
	for i := range 40 {
		own.Searches = append(own.Searches, strings.Repeat("x", i+1))
	}
	d, dropped := ForPod(None, "", false, DNS{}, Cluster{}, own)
	if len(d.Servers) != 3 || len(d.Searches) != 32 || len(dropped) != 9 {
		t.Errorf("%v, dropped %v", d, dropped)
	}
	long := DNS{Searches: []string{strings.Repeat("x", 2000), strings.Repeat("y", 47), "z"}}
	d, dropped = ForPod(None, "", false, DNS{}, Cluster{}, long)
	if len(d.Searches) != 2 || len(dropped) != 1 {
		t.Errorf("%d searches, dropped %v", len(d.Searches), dropped)
	}
}

func TestResolvConfRoundTrip(t *testing.T) {
	d := DNS{Servers: []string{"10.0.0.1", "fe80::1%eth0"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5", "edns0"}}
	text, err := ResolvConf(d)
	want := "search a.b c\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\noptions ndots:5 edns0\n"
	if text != want || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	if got := Parse(text); !reflect.DeepEqual(got, d) {
		t.Errorf("got %v", got)
	}
	for _, bad := range []DNS{
		{Servers: []string{"1.1.1.1\nsearch evil.com"}}, {Searches: []string{"a b"}}, {Options: []string{""}}, {Searches: []string{"#"}},
	} {
		if text, err := ResolvConf(bad); err == nil {
			t.Errorf("%v became %q", bad, text)
		}
	}
}

func TestParse(t *testing.T) {
	got := Parse("# comment\n; comment\ndomain old.com x\nsearch  a.com\tb.com\n nameserver 1.1.1.1\nnameserver\nsortlist 1.2.3.4\noptions a\noptions b")
	want := DNS{Servers: []string{"1.1.1.1"}, Searches: []string{"a.com", "b.com"}, Options: []string{"a", "b"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestHosts(t *testing.T) {
	ips := []netip.Addr{netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2")}
	got, err := Hosts(ips, "web", "sub.ns.svc.cluster.local", []HostAlias{{"192.0.2.1", []string{"db", "db.local"}}, {IP: "192.0.2.2"}})
	want := "# Berth writes this file.\n" +
		"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
		"10.88.0.2\tweb.sub.ns.svc.cluster.local\tweb\nfd88::2\tweb.sub.ns.svc.cluster.local\tweb\n" +
		"\n# Host aliases of the pod.\n192.0.2.1\tdb\tdb.local\n"
	if got != want || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	got, err = HostNetworkHosts("127.0.0.1 localhost", []HostAlias{{"::1", []string{"me"}}})
	if want := "# Berth writes this file.\n127.0.0.1 localhost\n\n# Host aliases of the pod.\n::1\tme\n"; got != want || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, a := range []HostAlias{{"1.2.3", []string{"x"}}, {"1.2.3.4", []string{"x\n6.6.6.6 bank.com"}}, {"1.2.3.4", []string{""}}} {
		if got, err := Hosts(nil, "h", "", []HostAlias{a}); err == nil {
			t.Errorf("%v became %q", a, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("search a b\nnameserver 1.1.1.1\noptions ndots:5\ndomain x")
	f.Add("search \x00\nnameserver #")
	f.Fuzz(func(t *testing.T, text string) {
		d := Parse(text)
		out, err := ResolvConf(d)
		if err != nil {
			return // it had words that we do not write
		}
		if again := Parse(out); !reflect.DeepEqual(norm(d), norm(again)) {
			t.Errorf("%q: %v became %v", text, d, again)
		}
	})
}

// norm makes nil and empty the same.
func norm(d DNS) DNS {
	for _, s := range []*[]string{&d.Servers, &d.Searches, &d.Options} {
		if len(*s) == 0 {
			*s = nil
		}
	}
	return d
}
