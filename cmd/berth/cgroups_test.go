package main

import (
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/config"
	"github.com/11f9778f/berth/internal/engine/systemd"
	"github.com/11f9778f/berth/internal/engine/systemd/systemdtest"
)

func TestCgroupDriver(t *testing.T) {
	for _, c := range []struct {
		driver, parent string
		driven         bool
		want, bad      string // the cgroup, or what is said about it
	}{
		{"cgroupfs", "", false, "", ""},
		{"cgroupfs", "/x", false, "/x", ""},
		{"auto", "", systemd.Runs(), "", ""},
		{"systemd", "", true, "", ""},
		{"systemd", "x-y.slice", true, "/x.slice/x-y.slice", ""},
		{"systemd", "/x.slice/x-y.slice", true, "/x.slice/x-y.slice", ""},
		{"systemd", "/x-y.slice", true, "", `cgroup.parent: "/x-y.slice" is no slice`},
		{"systemd", "/x", true, "", `cgroup.parent: "/x" is no slice`},
		{"systemd", "-.slice", true, "", "cgroup.parent"},
	} {
		l, err := config.Load(writeConfig(t, "[cgroup]\ndriver = \""+c.driver+"\"\nparent = \""+c.parent+"\"\n"), true)
		if err != nil {
			t.Fatal(err)
		}
		driven, parent, err := cgroups(l)
		if driven != c.driven || err == nil && parent != c.want || (err == nil) != (c.bad == "") || err != nil && !strings.Contains(err.Error(), c.bad) {
			t.Errorf("%+v: %v, %q, %v", c, driven, parent, err)
		}
	}
}

// With the driver systemd, config check looks for systemd.
func TestConfigCheckFindsSystemd(t *testing.T) {
	for _, s := range allSettings() {
		t.Setenv(s.env, "")
	}
	file := writeConfig(t, "[cgroup]\ndriver = \"systemd\"\n")
	if !systemd.Runs() {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
		if _, err, code := said(t, "config", "check", file); code != 1 || !strings.Contains(err, file+":2: cgroup.driver: connect to systemd (does it run here?)") {
			t.Errorf("%d %s", code, err)
		}
	}
	systemdtest.New(t)
	if out, err, code := said(t, "config", "check", file); code != 0 || out != file+": good\n" {
		t.Errorf("%d %s%s", code, out, err)
	}
	bad := writeConfig(t, "[cgroup]\ndriver = \"systemd\"\nparent = \"/berth\"\n")
	if _, err, code := said(t, "config", "check", bad); code != 1 || !strings.Contains(err, bad+":3: cgroup.parent") {
		t.Errorf("%d %s", code, err)
	}
}

// A runc shim is told who makes cgroups, unless its row says so itself.
func TestHandlersFollowTheDriver(t *testing.T) {
	rows := "[cgroup]\ndriver = \"systemd\"\n[handlers.a]\nshim = \"containerd-shim-runc-v2\"\n" +
		"[handlers.b]\nshim = \"containerd-shim-runc-v2\"\noptions = { SystemdCgroup = false }\n[handlers.c]\nshim = \"containerd-shim-runsc-v1\"\n"
	l, err := config.Load(writeConfig(t, rows), true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := handlers(l)
	if err != nil || !got["a"].SystemdCgroup || got["b"].SystemdCgroup || got["c"].SystemdCgroup || len(got["a"].Shim.Options.Value) == 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
