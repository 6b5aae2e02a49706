package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// place writes files below a folder of the test's own and returns the path of config.toml.
func place(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}

func TestDropInsAreLaidOverTheFile(t *testing.T) {
	path := place(t, map[string]string{
		"config.toml": "root = \"/a\"\n[network]\nsubnets = [\"10.1.0.0/16\", \"fd00::/64\"]\n[handlers.gvisor]\nshim = \"first\"\n[images]\nkeep_for_retry = \"1h30m\"\n",
		// Read in this order, whatever the order of writing.
		"config.d/10-a.toml":  "[network]\nsubnets = [\"10.2.0.0/16\"]\n[handlers.kata]\nshim = \"/opt/kata\"\noptions = { B = true, A = [\"x\"] }\n",
		"config.d/20-b.toml":  "handlers.gvisor.shim = \"second\"\nimages = { downloads = 3,\n plain_http = [\"r.local:5000\"] }\n",
		"config.d/ignored.md": "not TOML",
	})
	l, err := Load(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if l.Root != "/a" || l.Run != "/run/berth" || len(l.Network.Subnets) != 1 || l.Network.Subnets[0].String() != "10.2.0.0/16" ||
		l.Handlers["gvisor"].Shim != "second" || l.Handlers["kata"].Shim != "/opt/kata" || l.Images.Downloads != 3 ||
		l.Images.KeepForRetry.Duration != 90*time.Minute {
		t.Errorf("%+v", l.Config)
	}
	dir := filepath.Dir(path)
	for key, want := range map[string]string{
		"root": path + ":1", "run": "default", "network.subnets": dir + "/config.d/10-a.toml:2", "network.bridge": "default",
		"handlers.gvisor.shim": dir + "/config.d/20-b.toml:1", "images.plain_http": dir + "/config.d/20-b.toml:3",
		"images.keep_for_retry": path + ":7",
	} {
		if got := l.Origin(key); got != want {
			t.Errorf("%s comes from %s, want %s", key, got, want)
		}
	}
	if err := l.Set("network.bridge", "mine", "--bridge"); err != nil || l.Network.Bridge != "mine" || l.Origin("network.bridge") != "--bridge" {
		t.Errorf("a flag: %v, %+v", err, l.Network)
	}
	if err := l.Set("network.subnets", "10.9.0.0/16, fd01::/64", "$BERTH_SUBNET"); err != nil || len(l.Network.Subnets) != 2 {
		t.Errorf("a variable: %v, %+v", err, l.Network)
	}
	var b bytes.Buffer
	if err := l.Show(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[handlers.kata]", `options = {A = ["x"], B = true}`, `subnets = ["10.9.0.0/16", "fd01::/64"]`, "# $BERTH_SUBNET", "# default", "# " + path + ":1"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("show lacks %q:\n%s", want, b.String())
		}
	}
	// What is shown can be read again, and says the same.
	again, err := Load(place(t, map[string]string{"config.toml": b.String()}), true)
	if err != nil || !reflect.DeepEqual(again.Config, l.Config) {
		t.Errorf("read again: %v\n%+v\n%+v", err, again.Config, l.Config)
	}
}

func TestAMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	l, err := Load(path, false)
	if err != nil || !reflect.DeepEqual(l.Config, Default()) {
		t.Errorf("%v %+v", err, l)
	}
	if _, err := Load(path, true); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("one that is asked for: %v", err)
	}
}

// Each mistake is told with file, line and key, and with what would be right.
func TestMistakes(t *testing.T) {
	for body, want := range map[string][]string{
		"root = \"/a\"\nrun = 3\n":                                  {":2: run: it takes a text in quotes"},
		"[shims]\ngroup_size = \"many\"\n":                          {":2: shims.group_size: it takes a whole number"},
		"[images]\nplain_http = \"a\"\n":                            {":2: images.plain_http: it takes a list"},
		"[images]\nkeep_for_retry = \"10 minutes\"\n":               {":2: images.keep_for_retry: \"10 minutes\" is no length of time"},
		"[images]\nwritable_limit_inodes = 5\n":                     {":2: images.writable_limit_inodes: 5 is not from 100"},
		"[images]\nkeep_for_retry = 10\n":                           {":2: images.keep_for_retry: it takes a text in quotes, as \"10m\""},
		"[network]\nsubnets = [\"10.1.0.0\"]\n":                     {":2: network.subnets: it takes a list of address ranges"},
		"[log]\n[network]\nsubnets = [\n 7 ]\n[images]":             {":3: network.subnets: it takes a list of address ranges"},
		"[network]\nsubnet = [\"10.1.0.0/16\"]\n":                   {":2: network.subnet: there is no such key; did you mean network.subnets?"},
		"[netwrok]\nbridge = \"a\"\n":                               {":1: netwrok: there is no such key; did you mean network?"},
		"\nlevel = \"debug\"\n":                                     {":2: level: there is no such key; did you mean log.level?"},
		"zzz = 1\nyyy = 2\n":                                        {":1: zzz: there is no such key", ":2: yyy: there is no such key", "berth config default"},
		"[handlers.a]\nshim = \"x\"\nbinary = \"y\"\n":              {":3: handlers.a.binary: there is no such key"},
		"[log]\nlevel = \"verbose\"\n":                              {":2: log.level: there is no \"verbose\": use debug, info, warn or error"},
		"[log]\n\nlevel = \"debug\"\nformat = \"xml\"\n":            {":4: log.format:"},
		"[handlers.A_b]\nshim = \"x\"\n":                            {":1: handlers.A_b: a handler is called by a DNS label"},
		"[handlers.a]\n":                                            {":1: handlers.a: handlers.a.shim, its binary, is missing"},
		"[handlers.a]\nshim = \"x\"\npod_annotations = [\"[\"]\n":   {":3: handlers.a.pod_annotations: \"[\" is no pattern"},
		"[handlers.a]\nshim = \"x\"\noptions = 3\n":                 {":3: handlers.a.options: it takes a table"},
		"handlers.a.shim = \"bin/shim\"\n":                          {":1: handlers.a.shim: \"bin/shim\" is neither"},
		"[network]\nsubnets = [\"10.1.2.3/16\"]\n":                  {":2: network.subnets: 10.1.2.3/16 has bits beyond its length: did you mean 10.1.0.0/16?"},
		"[network]\nsubnets = [\"10.1.0.0/16\", \"10.2.0.0/16\"]\n": {":2: network.subnets: 10.2.0.0/16 is the second"},
		"root = \"here\"\n":                                         {":1: root: \"here\" is no absolute path"},
		"[streaming]\ncert_file = \"/c\"\n":                         {":2: streaming.cert_file: it has no effect without", "key_file are needed both"},
		"[streaming]\naddress = \"nowhere\"\n":                      {":2: streaming.address: \"nowhere\" is no address"},
		"[cgroup]\nparent = \"berth\"\n":                            {":2: cgroup.parent: \"berth\" is no cgroup"},
		"[metrics]\naddress = \"9745\"\n":                           {":2: metrics.address: \"9745\" is no address"},
		"[tracing]\nendpoint = \"localhost:4318\"\n":                {":2: tracing.endpoint: \"localhost:4318\" is no URL"},
		"[tracing]\nsample_ratio = 2.0\n":                           {":2: tracing.sample_ratio: 2 is not from 0 to 1"},
		"[log\n":                                                    {":1: expected ']'"},
		"root = \"a\"\nroot = \"b\"\n":                              {":2: root: key root is already defined"},
		"[log]\nlevel = \"" + strings.Repeat("x", 2<<20) + "\"":     {"is larger than"},
	} {
		path := place(t, map[string]string{"config.toml": body})
		l, err := Load(path, true)
		if err == nil {
			err = l.Check()
		}
		if err == nil {
			t.Errorf("%.60q is accepted", body)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.60q: %v; want %q", body, err, w)
			}
		}
		if strings.Contains(err.Error(), "toml: ") || strings.Contains(err.Error(), "struct") {
			t.Errorf("%.60q: the message speaks of the program: %v", body, err)
		}
	}
}

// A mistake in a drop-in names the drop-in, and mistakes of several are told together.
func TestMistakesInDropIns(t *testing.T) {
	path := place(t, map[string]string{"config.d/a.toml": "x = 1\n", "config.d/b.toml": "\nroot = 2\n"})
	_, err := Load(path, false)
	if err == nil || !strings.Contains(err.Error(), "/config.d/a.toml:1: x:") || !strings.Contains(err.Error(), "/config.d/b.toml:2: root:") {
		t.Errorf("got %v", err)
	}
}

func TestChanges(t *testing.T) {
	load := func(body string) *Loaded {
		l, err := Load(place(t, map[string]string{"config.toml": body}), true)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := load("[log]\nlevel = \"info\"\n[handlers.a]\nshim = \"x\"\n[handlers.b]\nshim = \"y\"\n")
	after := load("root = \"/b\"\n[log]\nlevel = \"debug\"\n[handlers.a]\nshim = \"z\"\n[handlers.c]\nshim = \"w\"\n")
	want := []Change{
		{"root", `"/var/lib/berth"`, `"/b"`, false},
		{"log.level", `"info"`, `"debug"`, true},
		{"handlers.a.shim", `"x"`, `"z"`, true},
		{"handlers.c.shim", "", `"w"`, true},
		{"handlers.b.shim", `"y"`, "", true},
	}
	if got := before.Changes(after); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if got := before.Changes(before); len(got) != 0 {
		t.Errorf("nothing changed: %+v", got)
	}
	// What a daemon can change is adopted; what it can't is still different.
	before.Adopt(after)
	if got := before.Changes(after); !reflect.DeepEqual(got, want[:1]) {
		t.Errorf("after Adopt: %+v", got)
	}
	if got := before.Origin("log.level"); got != after.Origin("log.level") {
		t.Errorf("log.level comes from %s", got)
	}
}

// Any bytes are a configuration or an error, never a panic; what is accepted can be shown and read again.
func FuzzLoad(f *testing.F) {
	f.Add(DefaultText)
	f.Add("[network]\nsubnets = [\"10.1.0.0/16\"]\n")
	f.Add("handlers.\"a b\" = { shim = \"x\" }\n")
	f.Add("a.b.c = 1\n[[handlers]]\n")
	f.Fuzz(func(t *testing.T, body string) {
		l := &Loaded{Config: Default(), origins: map[string]string{}}
		if l.add("f", []byte(body)) != nil || l.Check() != nil {
			return
		}
		var b bytes.Buffer
		l.Show(&b)
		again := &Loaded{Config: Default(), origins: map[string]string{}}
		if err := again.add("g", b.Bytes()); err != nil {
			t.Fatalf("%q is accepted, and shown as\n%s: %v", body, b.String(), err)
		}
	})
}
