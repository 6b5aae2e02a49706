package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// said runs a verb and returns what it printed.
func said(t *testing.T, args ...string) (out, err string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = (&cli{out: &o, err: &e}).execute(context.Background(), args)
	return o.String(), e.String(), code
}

func writeConfig(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Flags beat the environment, which beats files, which beat the defaults; config show tells which won.
func TestFlagsBeatEnvironmentBeatsFiles(t *testing.T) {
	for _, s := range allSettings() {
		t.Setenv(s.env, "")
	}
	file := writeConfig(t, "root = \"/from/file\"\nrun = \"/run/file\"\n[network]\nbridge = \"file0\"\nsubnets = [\"10.1.0.0/16\"]\n[shims]\ngroup_size = 7\n")
	t.Setenv("BERTH_RUN", "/run/env")
	t.Setenv("BERTH_BRIDGE", "env0")
	t.Setenv("BERTH_SUBNET", "10.2.0.0/16,fd00::/64")
	out, err, code := said(t, "--config", file, "config", "show", "--bridge", "flag0", "--listen", "unix:///run/x.sock")
	if code != 0 {
		t.Fatal(err)
	}
	for _, want := range []string{
		`root = "/from/file" # ` + file + ":1", `run = "/run/env" # $BERTH_RUN`, `bridge = "flag0" # --bridge`, `socket = "/run/x.sock" # --listen`,
		`subnets = ["10.2.0.0/16", "fd00::/64"] # $BERTH_SUBNET`, "group_size = 7 # " + file + ":7", `nft_table = "" # default`,
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("config show lacks %q:\n%s", want, out)
		}
	}
}

func TestConfigVerbs(t *testing.T) {
	for _, s := range allSettings() {
		t.Setenv(s.env, "")
	}
	text, _, _ := said(t, "config", "default")
	good := writeConfig(t, text)
	if out, err, code := said(t, "config", "check", good); code != 0 || out != good+": good\n" {
		t.Errorf("the default: %d %s%s", code, out, err)
	}
	bad := writeConfig(t, "[log]\nlevel = \"loud\"\n")
	if _, err, code := said(t, "config", "check", bad); code != 1 || !strings.Contains(err, bad+`:2: log.level: there is no "loud"`) {
		t.Errorf("a mistake: %d %s", code, err)
	}
	for _, flags := range [][]string{{"--subnet", "ten"}, {"--subnet", "10.1.2.3/24"}, {"--log-level", "loud"}, {"--log-format", "xml"}, {"--group-size", "0"}, {"--group-size", "x"}} {
		_, err, code := said(t, append([]string{"config", "check", good}, flags...)...)
		if code != 1 || !strings.Contains(err, flags[0]) {
			t.Errorf("%v: %d %s", flags, code, err)
		}
	}
	if _, err, code := said(t, "config", "check", filepath.Join(t.TempDir(), "none")); code != 1 || !strings.Contains(err, "no such file") {
		t.Errorf("a file that is not there: %d %s", code, err)
	}
}
