package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

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
	n.Stop("a") // by what it was attached by
	n.expectCalls("fake DEL a")
	n.Network.cfg.Name = "single"
	n.pod("c")
	n.calls()
	n.Stop("c")
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
