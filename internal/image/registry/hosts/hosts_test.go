package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const full = `
server = "https://registry.example"
ca = "/etc/ca.crt"

[host."http://mirror.local:5000"]
  capabilities = ["pull"]
  dial_timeout = "3s"
  [host."http://mirror.local:5000".header]
    x-one = "1"
    x-two = ["a", "b"]

[host."https://proxy.example/v2/hub"]
  capabilities = ["pull", "resolve"]
  override_path = true
  skip_verify = true
  client = [["a.crt", "a.key"], ["/b.crt", "/b.key"]]

[host."plain.example/team"]
  client = "both.pem"
  ca = ["x.crt", "/y.crt"]
  colour = "red"
`

func TestParse(t *testing.T) {
	h, err := Parse([]byte(full), "/d")
	if err != nil {
		t.Fatal(err)
	}
	var urls []string
	for _, x := range h.List {
		urls = append(urls, x.URL.String())
	}
	want := []string{"http://mirror.local:5000/v2", "https://proxy.example/v2/hub", "https://plain.example/team/v2", "https://registry.example/v2"}
	if !reflect.DeepEqual(urls, want) {
		t.Errorf("%q", urls)
	}
	m, p, q, s := h.List[0], h.List[1], h.List[2], h.List[3]
	if !m.Pull || m.Resolve || m.Push || m.Server || m.DialTimeout != 3*time.Second || m.Header.Get("X-One") != "1" || len(m.Header.Values("x-two")) != 2 {
		t.Errorf("%+v", m)
	}
	if !p.SkipVerify || !reflect.DeepEqual(p.Pairs, [][2]string{{"/d/a.crt", "/d/a.key"}, {"/b.crt", "/b.key"}}) {
		t.Errorf("%+v", p)
	}
	if !q.Push || !reflect.DeepEqual(q.Pairs, [][2]string{{"/d/both.pem", "/d/both.pem"}}) || !reflect.DeepEqual(q.CAs, []string{"/d/x.crt", "/y.crt"}) {
		t.Errorf("%+v", q)
	}
	if !s.Server || !reflect.DeepEqual(s.CAs, []string{"/etc/ca.crt"}) {
		t.Errorf("%+v", s)
	}
	if len(h.Notes) != 1 || !strings.Contains(h.Notes[0], "colour") {
		t.Errorf("%q", h.Notes)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	for text, word := range map[string]string{
		`server = 1`:                                     "server",
		`server = "ftp://x"`:                             "https://host",
		`server = "https://u:secret@x"`:                  "https://host",
		`capabilities = ["eat"]`:                         "capabilities",
		"[host.\"x\"]\nca = 3":                           "ca",
		"[host.\"x\"]\nclient = [[\"a\"]]":               "client",
		"[host.\"x\"]\ndial_timeout = \"soon\"":          "dial_timeout",
		"[host.\"x\"]\n[host.\"x\".header]\na = 1":       "header",
		`host = {"https://a" = {}, "https://b" = {} }`:   "order",
		"[host.\"x\"]\nskip_verify = \"yes\"":            "skip_verify",
		"[host.\"x\"]\n[host.\"x\".header]\na = \"\\n\"": "header",
	} {
		_, err := Parse([]byte(text), "/d")
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	write(t, a+"/one.example_5000_/hosts.toml", `server = "https://first"`)
	write(t, a+"/one.example:5000/hosts.toml", `server = "https://second"`)
	write(t, b+"/_default/hosts.toml", `server = "https://default"`)
	write(t, b+"/broken/hosts.toml", `server = `)
	write(t, b+"/docker/ca.crt", "x")
	write(t, b+"/docker/me.cert", "x")
	write(t, b+"/docker/me.key", "x")
	for registry, want := range map[string]string{"one.example:5000": "first", "other": "default", "docker": ""} {
		h, err := Find([]string{a, b}, registry)
		if err != nil || h.List[0].URL.Host != want || h.File == "" {
			t.Errorf("%s: %+v, %v", registry, h, err)
		}
	}
	h, _ := Find([]string{a, b}, "docker")
	if len(h.List[0].CAs) != 1 || h.List[0].Pairs[0] != [2]string{b + "/docker/me.cert", b + "/docker/me.key"} {
		t.Errorf("%+v", h)
	}
	if _, _, err := h.List[0].TLS(); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "ca.crt") {
		t.Error(err)
	}
	if _, err := Find([]string{a, b}, "broken"); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "broken/hosts.toml") {
		t.Error(err)
	}
	if h, err := Find([]string{a}, "none"); err != nil || len(h.List) != 1 || !h.List[0].Server || h.File != "" {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("[host.\"a\"]\n[host.\"a\".header]\nx=[\"\"]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b, "/d")
		if err == nil && (len(h.List) == 0 || !h.List[len(h.List)-1].Server) {
			t.Error("no server")
		}
	})
}
