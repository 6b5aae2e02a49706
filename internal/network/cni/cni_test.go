package cni

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/network/nettest"
)

// node is a Network under test, with the fakes as its plugins.
type node struct {
	testing.TB
	*Network
	cfg    Config
	folder string // the fakes'
}

const twoFakes = `{"cniVersion":"1.1.0","name":"fakes","plugins":[
	{"type":"fake","folder":%[1]q,"capabilities":{"portMappings":true,"bandwidth":true,"ips":true}},
	{"type":"second","folder":%[1]q,"capabilities":{"dns":true,"aliases":true,"ipRanges":true}}]}`

func newNode(t testing.TB) *node {
	t.Helper()
	nettest.NeedRoot(t)
	dir := t.TempDir()
	n := &node{TB: t, folder: filepath.Join(dir, "fake"), cfg: Config{
		RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), ConfDir: filepath.Join(dir, "net.d"),
		BinDirs: []string{filepath.Join(dir, "bin")}, Timeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}}
	for _, d := range []string{n.folder, n.cfg.ConfDir, n.cfg.BinDirs[0]} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fake", "second"} {
		if err := os.Symlink(exe, filepath.Join(n.cfg.BinDirs[0], name)); err != nil {
			t.Fatal(err)
		}
	}
	n.conf("10.conflist", fmt.Sprintf(twoFakes, n.folder))
	n.open()
	t.Cleanup(n.cleanUp)
	return n
}

func (n *node) open() {
	n.Helper()
	m, err := Open(n.cfg)
	if err != nil {
		n.Fatal(err)
	}
	m.patience = 30 * time.Second // as long as it takes on a loaded machine
	n.Network = m
}

// cleanUp detaches what is left with plugins that are good, and finds nothing.
func (n *node) cleanUp() {
	for _, p := range []string{"fake", "second"} {
		n.set(p, "DEL", "")
	}
	if _, err := n.Repair(context.Background(), func(string) bool { return false }); err != nil {
		n.Error("repair:", err)
	}
	if err := n.Close(); err != nil {
		n.Error(err)
	}
	left, err := os.ReadDir(n.cfg.StateDir)
	for _, e := range left {
		if e.IsDir() {
			n.Errorf("a record is left: %s", e.Name())
		}
	}
	if has, err := filepath.Glob(filepath.Join(n.folder, "has-*")); len(has) > 0 || err != nil {
		n.Errorf("plugins still have something of sandboxes: %v, %v", has, err)
	}
	if ids, _ := netns.Dir(filepath.Join(n.cfg.RunDir, "netns")).List(); len(ids) > 0 || err != nil {
		n.Errorf("pins are left: %v, %v", ids, err)
	}
}

func (n *node) conf(name, text string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(n.cfg.ConfDir, name), []byte(text), 0o644); err != nil {
		n.Fatal(err)
	}
}

// set says what a fake does at a command; "" is that all goes well.
func (n *node) set(plugin, command, do string) {
	n.Helper()
	if err := os.WriteFile(filepath.Join(n.folder, plugin+"."+command), []byte(do), 0o600); err != nil {
		n.Fatal(err)
	}
}

// calls returns what the fakes were called with since the last time.
func (n *node) calls() []call {
	n.Helper()
	path := filepath.Join(n.folder, "log")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		n.Fatal(err)
	}
	defer f.Close()
	defer os.Remove(path)
	var out []call
	for s := bufio.NewScanner(f); s.Scan(); {
		var c call
		if err := json.Unmarshal(s.Bytes(), &c); err != nil {
			n.Fatal(err)
		}
		if c.Command != "end of ADD" {
			out = append(out, c)
		}
	}
	return out
}

// said is the calls in short: "fake ADD a".
func (n *node) said() []string {
	n.Helper()
	var out []string
	for _, c := range n.calls() {
		out = append(out, strings.TrimSpace(c.Plugin+" "+c.Command+" "+c.ID))
	}
	return out
}

func (n *node) expectCalls(want ...string) {
	n.Helper()
	if got := n.said(); !slices.Equal(got, want) {
		n.Errorf("plugins were called with\n%q, want\n%q", got, want)
	}
}

// settled waits until the network's own first round is over, so that its GC is not among a test's calls.
func (n *node) settled() {
	n.Helper()
	<-n.retry.first
	n.calls()
}

func (n *node) start(id string, change func(*network.Request)) (*network.Result, error) {
	n.Helper()
	path, err := n.CreateNetNS(context.Background(), id, nil)
	if err != nil {
		n.Fatal(err)
	}
	r := network.Request{SandboxID: id, NetNS: path, PodNamespace: "default", PodName: "web", PodUID: "u-1"}
	if change != nil {
		change(&r)
	}
	return n.Attach(context.Background(), r)
}

func (n *node) pod(id string) *network.Result {
	n.Helper()
	r, err := n.start(id, nil)
	if err != nil {
		n.Fatal(err)
	}
	return r
}

func (n *node) stop(id string) {
	n.Helper()
	if err := n.Detach(context.Background(), id); err != nil {
		n.Error(err)
	}
	if err := n.RemoveNetNS(context.Background(), id); err != nil {
		n.Error(err)
	}
}

func TestWhatPluginsAreTold(t *testing.T) {
	n := newNode(t)
	n.settled()
	if err := n.SetSubnets(context.Background(), []netip.Prefix{netip.MustParsePrefix("10.7.0.0/24")}); err != nil {
		t.Fatal(err)
	}
	r, err := n.start("a", func(r *network.Request) {
		r.PortMappings = []network.PortMapping{{Protocol: "UDP", HostPort: 53, ContainerPort: 5353, HostIP: netip.MustParseAddr("127.0.0.1")}, {ContainerPort: 9}}
		r.Bandwidth = network.Bandwidth{Ingress: 1e9}
		r.IPs = []netip.Addr{netip.MustParseAddr("10.7.0.9")}
		r.DNS = &network.DNS{Servers: []string{"10.0.0.10"}, Searches: []string{"svc"}, Options: []string{"ndots:5"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(r.IPs, r.Addresses, r.Gateways, r.MAC); got != "[10.99.0.5 fd99::5] [10.99.0.5/24 fd99::5/64] [10.99.0.1 invalid IP] 0a:00:00:00:00:01" {
		t.Error("result:", got)
	}
	calls := n.calls()
	if len(calls) != 2 {
		t.Fatalf("calls: %+v", calls)
	}
	if got := calls[0].Args; got != "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=u-1" {
		t.Error("CNI_ARGS:", got)
	}
	for i, want := range []string{
		`{"bandwidth":{"ingressBurst":125000000,"ingressRate":1000000000},"ips":["10.7.0.9"],"portMappings":[{"containerPort":5353,"hostIP":"127.0.0.1","hostPort":53,"protocol":"udp"}]}`,
		`{"aliases":["web"],"dns":{"options":["ndots:5"],"searches":["svc"],"servers":["10.0.0.10"]},"ipRanges":[[{"subnet":"10.7.0.0/24"}]]}`,
	} {
		if got, _ := json.Marshal(calls[i].Conf["runtimeConfig"]); string(got) != want {
			t.Errorf("plugin %d was given\n%s, want\n%s", i, got, want)
		}
	}
	if calls[0].Conf["prevResult"] != nil || calls[1].Conf["prevResult"] == nil || calls[1].NetNS != n.Pins.Path("a") {
		t.Errorf("calls: %+v", calls)
	}
	n.stop("a")
	calls = n.calls()
	if len(calls) != 2 || calls[0].Plugin != "second" || calls[1].Command != "DEL" || calls[0].Conf["prevResult"] == nil ||
		calls[1].Conf["runtimeConfig"] == nil || calls[1].NetNS != n.Pins.Path("a") {
		t.Errorf("at the end: %+v", calls)
	}
}

func TestAttachAndDetachAreIdempotent(t *testing.T) {
	n := newNode(t)
	n.settled()
	first := n.pod("a")
	n.expectCalls("fake ADD a", "second ADD a")
	n.Close()
	n.open()
	n.settled()
	if again := n.pod("a"); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Errorf("first %v, then %v", first, again)
	}
	n.expectCalls()
	n.stop("a")
	n.stop("a")
	n.stop("never-was")
	n.expectCalls("second DEL a", "fake DEL a")
}

// What an ADD that fails has done is taken back, by every plugin.
func TestFailedAdd(t *testing.T) {
	for _, c := range []struct{ do, want string }{
		{"fail", "fake ADD: try later; the switch is asleep"},
		{"die", `signal: killed (it said "no such switch")`},
		{"this is no JSON", "invalid character"},
		{"null", "no address"},
		{`{"cniVersion":"1.1.0"}`, "no address"},
		{`{"cniVersion":"99.0.0","ips":[]}`, "99.0.0"},
		{`{"cniVersion":"1.1.0","ips":[{"address":"127.0.0.1/8"}]}`, "ips[0]: address: 127.0.0.1/8"},
		{`{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.1/24","interface":7}]}`, "ips[0]: interface: there is no interfaces[7]"},
		{`{"cniVersion":"1.1.0","ips":[null]}`, "ips[0]: it is null"},
		{`{"cniVersion":"1.1.0","interfaces":[null],"ips":[{"address":"10.0.0.1/24","interface":0}]}`, "interfaces[0] is null"},
		{`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n","mac":"x"}]}`, "interfaces[0].mac"},
		{"flood", "printed more than"},
	} {
		t.Run(c.do[:min(len(c.do), 40)], func(t *testing.T) {
			n := newNode(t)
			n.settled()
			n.set("fake", "ADD", c.do)
			_, err := n.start("a", nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			said := n.said()
			if len(said) < 3 || !slices.Equal(said[len(said)-2:], []string{"second DEL a", "fake DEL a"}) {
				t.Errorf("calls: %q", said)
			}
			if all, err := n.List(context.Background()); len(all) > 0 || err != nil {
				t.Errorf("left: %v, %v", all, err)
			}
			n.set("fake", "ADD", "")
			n.pod("a") // and now it works
		})
	}
}

// A plugin that hangs, or leaves behind what does, holds up its own pod for a bounded time.
func TestHangingPlugin(t *testing.T) {
	for _, do := range []string{"hang", "hang in a child"} {
		t.Run(do, func(t *testing.T) {
			n := newNode(t)
			n.Close()
			n.cfg.Timeout = 300 * time.Millisecond
			n.open()
			n.set("fake", "ADD", do)
			if _, err := n.start("a", nil); err == nil || !strings.Contains(err.Error(), "fake ADD did not answer within 300ms and was killed") {
				t.Error("error:", err)
			}
			n.set("fake", "ADD", "")
			n.Close()
			n.cfg.Timeout = 20 * time.Second
			n.open()
			n.pod("b")
		})
	}
}

// DEL goes to each plugin whatever the others say, and again until all have acknowledged, across restarts of the
// daemon and of the machine.
func TestDelIsRetriedUntilAcknowledged(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.pod("a")
	n.set("second", "DEL", "fail")
	n.settled()
	if err := n.Detach(ctx, "a"); err == nil || !strings.Contains(err.Error(), "second DEL: try later") {
		t.Error("error:", err)
	}
	if said := n.said(); len(said) < 2 || said[0] != "second DEL a" || said[1] != "fake DEL a" {
		t.Errorf("calls: %q", said)
	}
	items, err := n.Inventory(ctx)
	if err != nil || len(items) != 2 || !strings.Contains(items[1].Note, "the plugins refuse DEL, and are asked again: second DEL: try later") {
		t.Errorf("inventory: %v, %v", items, err)
	}
	if err := n.RemoveNetNS(ctx, "a"); err != nil {
		t.Error(err)
	}
	n.calls()
	nettest.Await(t, "the network asks again by itself", func() bool { return slices.Contains(n.said(), "second DEL a") })
	n.Close()
	if err := os.RemoveAll(n.cfg.ConfDir); err != nil { // the configuration is gone as well: the record counts
		t.Fatal(err)
	}
	n.set("second", "DEL", "")
	n.open()
	nettest.Await(t, "the next daemon finishes it", func() bool { all, _ := n.List(ctx); return len(all) == 0 })
}

// A plugin that hangs at DEL keeps the others from nothing, though it uses up all of the caller's time.
func TestHangingDel(t *testing.T) {
	n := newNode(t)
	n.settled()
	n.pod("a")
	n.calls()
	n.set("second", "DEL", "hang")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := n.Detach(ctx, "a"); err == nil {
		t.Error("a plugin that hangs has acknowledged")
	}
	if said := n.said(); !slices.Contains(said, "fake DEL a") {
		t.Errorf("calls: %q", said)
	}
	n.set("second", "DEL", "")
	if err := n.Detach(context.Background(), "a"); err != nil {
		t.Error(err)
	}
	n.RemoveNetNS(context.Background(), "a")
}

func TestAttachmentsOfAnEarlierBootAreDetached(t *testing.T) {
	n := newNode(t)
	n.pod("old")
	n.pod("new")
	n.Close()
	a, err := n.records.read("old")
	if err != nil {
		t.Fatal(err)
	}
	a.Boot = "another"
	if err := n.records.write(a); err != nil {
		t.Fatal(err)
	}
	if err := n.Pins.Remove("old"); err != nil { // no namespace outlives a boot
		t.Fatal(err)
	}
	n.calls()
	n.open()
	nettest.Await(t, "the earlier boot's is gone", func() bool { all, _ := n.List(context.Background()); return len(all) == 1 && all[0].SandboxID == "new" })
	n.Close() // after its GC
	var del []string
	for _, c := range n.calls() {
		if c.Command == "DEL" {
			del = append(del, c.Plugin+c.NetNS)
		}
	}
	if !slices.Equal(del, []string{"second", "fake"}) {
		t.Errorf("DEL went to %q: want both, without a namespace", del)
	}
	n.open()
}

// GC tells the plugins who lives.
func TestGC(t *testing.T) {
	n := newNode(t)
	n.pod("a")
	n.pod("b")
	n.Close()
	n.calls()
	n.open()
	nettest.Await(t, "GC", func() bool {
		b, _ := os.ReadFile(filepath.Join(n.folder, "log"))
		return strings.Count(string(b), "GC") >= 2
	})
	for _, c := range n.calls() {
		got, _ := json.Marshal(c.Conf["cni.dev/valid-attachments"])
		if c.Command != "GC" || string(got) != `[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth0"}]` {
			t.Errorf("%s %s: %s", c.Plugin, c.Command, got)
		}
	}
}

// The folder is what counts, at each moment: no network, a better one, a broken one.
func TestFolderChanges(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	if err := n.Ready(ctx); err != nil {
		t.Error(err)
	}
	os.Remove(filepath.Join(n.cfg.ConfDir, "10.conflist"))
	if err := n.Ready(ctx); !errors.Is(err, ErrNoNetwork) {
		t.Error("without a configuration:", err)
	}
	if _, err := n.start("a", nil); !errors.Is(err, ErrNoNetwork) {
		t.Error("without a configuration:", err)
	}
	n.conf("20-one.conf", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"single","type":"fake","folder":%q}`, n.folder))
	n.conf("15-broken.conflist", `{"cniVersion":`)
	n.pod("a")
	n.conf("10-first.conflist", strings.Replace(fmt.Sprintf(twoFakes, n.folder), "fakes", "later", 1))
	n.pod("b")
	all, err := n.List(ctx)
	if err != nil || len(all) != 2 || all[0].Network != "single" || all[1].Network != "later" {
		t.Errorf("%+v, %v", all, err)
	}
	n.calls()
	n.stop("a") // by what it was attached by
	n.expectCalls("fake DEL a")
	n.Network.cfg.Name = "single"
	n.pod("c")
	n.calls()
	n.stop("c")
	n.expectCalls("fake DEL c")
	n.Network.cfg.Name = "none such"
	if err := n.Ready(ctx); !errors.Is(err, ErrNoNetwork) {
		t.Error(err)
	}
	n.Network.cfg.Name = ""
}

func TestReadyIsTrueToTheFacts(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.set("second", "STATUS", "fail")
	if err := n.Ready(ctx); err == nil || !strings.Contains(err.Error(), "second STATUS: try later") {
		t.Error("error:", err)
	}
	n.set("fake", "STATUS", "hang")
	n.patience = statusTime
	if err := n.Ready(ctx); err == nil || !strings.Contains(err.Error(), "did not answer") {
		t.Error("error:", err)
	}
	n.set("fake", "STATUS", "")
	n.set("second", "STATUS", "")
	n.patience = 30 * time.Second
	if err := n.Ready(ctx); err != nil {
		t.Error(err)
	}
	n.conf("05.conflist", `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"not-installed"}]}`)
	if err := n.Ready(ctx); err == nil || !strings.Contains(err.Error(), `the CNI plugin "not-installed" is not in`) {
		t.Error("error:", err)
	}
	os.Remove(filepath.Join(n.cfg.ConfDir, "05.conflist"))
}

func TestCheckTellsOfLies(t *testing.T) {
	n := newNode(t)
	n.pod("a") // of which the fake made nothing
	n.set("second", "CHECK", "fail")
	got, err := n.Check(context.Background(), "a")
	if err != nil || len(got) != 2 || !strings.Contains(got[0].What, "eth0 is missing") || !strings.Contains(got[1].What, "second CHECK: try later") {
		t.Errorf("%+v, %v", got, err)
	}
	n.Pins.Remove("a")
	if got, err := n.Check(context.Background(), "a"); err != nil || len(got) != 1 || !strings.Contains(got[0].What, "is gone") {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := n.Check(context.Background(), "nobody"); err == nil {
		t.Error("nobody is attached")
	}
}

func TestTemplate(t *testing.T) {
	n := newNode(t)
	ctx := context.Background()
	n.Network.cfg.Template = filepath.Join(n.folder, "template")
	write := func(text string) {
		if err := os.WriteFile(n.Network.cfg.Template, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	two := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd01::/64")}
	write(`{"cniVersion":"1.0.0","name":"made","plugins":[{"type":"fake","folder":"x","ipam":{"subnet":"{{.PodCIDR}}",
		"ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}],
		"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}}]}`)
	if err := n.SetSubnets(ctx, two); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(n.cfg.ConfDir, "10-berth.conflist"))
	if want := `"subnet":"10.1.0.0/24"`; err != nil || !strings.Contains(string(got), want) || !strings.Contains(string(got), `[{"subnet":"fd01::/64"}]`) || !strings.Contains(string(got), `{"dst":"::/0"}`) {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"{{.NoSuch}}", "{{", "{}"} {
		write(bad)
		if err := n.SetSubnets(ctx, two); err == nil {
			t.Errorf("template %q was taken", bad)
		}
	}
	if again, _ := os.ReadFile(filepath.Join(n.cfg.ConfDir, "10-berth.conflist")); string(again) != string(got) {
		t.Error("a bad template changed the configuration")
	}
}

func TestHostileNames(t *testing.T) {
	n := newNode(t)
	if _, err := n.start("a", func(r *network.Request) { r.PodName = "x;K8S_POD_NAMESPACE=kube-system" }); err == nil {
		t.Error("a pod's name became another argument")
	}
	n.settled()
	for _, id := range []string{"../a", "", "a/b", ".none"} {
		if err := n.Detach(context.Background(), id); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
	n.expectCalls()
}
