package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

//go:generate go test -run TestPagesAreCurrent -update .

var (
	update = flag.Bool("update", false, "write docs/cli anew")
	manDir = flag.String("man", "", "write manual pages into this folder")
)

const pages = "../../docs/cli"

// all is the command with everything that cobra adds when it runs.
func all() *cobra.Command {
	cmd := (&cli{out: io.Discard, err: io.Discard}).command()
	cmd.InitDefaultCompletionCmd()
	cmd.DisableAutoGenTag = true
	return cmd
}

// docs/cli has a page for each verb, made from what --help says.
func TestPagesAreCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := doc.GenMarkdownTree(all(), dir); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.RemoveAll(pages); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(pages, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, got := read(t, dir), read(t, pages)
	for name, body := range want {
		if got[name] != body {
			t.Errorf("docs/cli/%s is not what --help says: go generate ./cmd/berth", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/cli/%s is of no verb: go generate ./cmd/berth", name)
		}
	}
}

func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

// Manual pages are made from the same, by make man.
func TestManualPages(t *testing.T) {
	dir := *manDir
	if dir == "" {
		dir = t.TempDir()
	}
	date := time.Unix(0, 0) // builds are reproducible: the pages have no date of their own
	head := &doc.GenManHeader{Title: "BERTH", Section: "1", Source: "Berth", Manual: "Berth", Date: &date}
	if err := doc.GenManTree(all(), head, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berth.1", "berth-cri.1", "berth-config-check.1"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every verb says in a sentence what it does.
func TestEveryVerbIsExplained(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short text", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(all())
}
