package state

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type thing struct {
	Name string
	N    int
}

func TestSaveLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.json")
	// Longer, shorter, over a page and back again.
	for n, name := range []string{"x", strings.Repeat("y", 4000), "z", strings.Repeat("y", 9000), "x"} {
		want := thing{name, n}
		if err := Save(path, want); err != nil {
			t.Fatal(err)
		}
		var got thing
		if err := Load(path, &got); err != nil || got != want {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600)
	if err := Load(filepath.Join(dir, "empty"), &thing{}); !errors.Is(err, ErrEmpty) || !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	names, err := Names(dir)
	if err != nil || len(names) != 1 || names[0] != "a" {
		t.Fatalf("%q, %v", names, err)
	}
	if names, err := Names(filepath.Join(dir, "none")); err != nil || names != nil {
		t.Fatalf("%q, %v", names, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"empty": "", "cut": `{"version":1,"data":{"Na`, "version": `{"version":2,"data":{}}`, "none": `{"data":{}}`,
		"long": `{"version":1,"data":"` + strings.Repeat("x", maxSize) + `"}`,
	} {
		path := filepath.Join(dir, name)
		os.WriteFile(path, []byte(content), 0o600)
		if err := Load(path, &thing{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Symlink("/etc/hostname", filepath.Join(dir, "link"))
	if err := Load(filepath.Join(dir, "link"), &thing{}); err == nil {
		t.Error("followed a link")
	}
}

func TestValidID(t *testing.T) {
	for _, id := range []string{"a", "0", "A-b_c.d", strings.Repeat("x", 128)} {
		if err := ValidID(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\x00", strings.Repeat("x", 129)} {
		if ValidID(id) == nil {
			t.Errorf("%q passed", id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"version":1,"data":{"Name":"x","N":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got thing
		_ = Parse(b, &got)
		_ = ValidID(string(b))
	})
}
