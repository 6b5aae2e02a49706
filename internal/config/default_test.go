package config

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write default.toml anew from the comments in keys.go")

// default.toml is made from the comments of Config's fields.
func TestDefaultTextIsCurrent(t *testing.T) {
	want := render(t)
	if *update {
		if err := os.WriteFile("default.toml", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if DefaultText != want {
		t.Error("default.toml is not what keys.go says: run go test ./internal/config -update")
	}
}

// The file with every comment sign taken from its keys is the default, and nothing in it is refused.
func TestDefaultTextIsTheDefault(t *testing.T) {
	for name, text := range map[string]string{
		"as it is":    DefaultText,
		"uncommented": regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(DefaultText, "$1"),
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		if name == "uncommented" { // the row of handlers is an example
			text, _, _ = strings.Cut(text, "# RuntimeClass handlers")
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Load(path, true)
		if err == nil {
			err = l.Check()
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var a, b bytes.Buffer
		fresh := &Loaded{Config: Default(), origins: map[string]string{}}
		l.origins = nil
		if l.Show(&a); fresh.Show(&b) != nil || a.String() != b.String() {
			t.Errorf("%s: it holds\n%s\nwant\n%s", name, a.String(), b.String())
		}
	}
}

// render writes default.toml.
func render(t *testing.T) string {
	t.Helper()
	docs := comments(t)
	var b strings.Builder
	b.WriteString(`# Berth's configuration: /etc/berth/config.toml, and over it config.d/*.toml beside it in the order of
# their names. Every key is here, commented out, with its default. Flags and environment variables beat
# files. "berth config check" tells what is wrong, "berth config show" what holds and why.
#
# Keys marked with (reload) are taken over by a running daemon on SIGHUP; all others need a restart,
# which leaves pods alone.
`)
	d := Default()
	table(&b, docs, reflect.ValueOf(d), "", false)
	return b.String()
}

// table writes the keys of a table, then the tables in it; rows of handlers come last.
func table(b *strings.Builder, docs map[string]string, v reflect.Value, name string, commented bool) {
	typ := v.Type()
	if name != "" {
		sign := ""
		if commented {
			sign = "#"
		}
		fmt.Fprintf(b, "\n%s\n%s[%s]\n", strings.TrimSuffix(comment(docs[typ.Name()], false), "\n"), sign, name)
	}
	var later []func()
	for i := range typ.NumField() {
		f := typ.Field(i)
		key := strings.TrimPrefix(name+"."+tomlName(f), ".")
		switch {
		case isTable(f.Type):
			later = append(later, func() { table(b, docs, v.Field(i), key, false) })
		case isRows(f.Type):
			defer func() { // after all else: what follows a table's head belongs to it
				b.WriteString("\n" + comment(docs[typ.Name()+"."+f.Name], f.Tag.Get("reload") != ""))
				table(b, docs, reflect.New(f.Type.Elem()).Elem(), key+".NAME", true)
			}()
		default:
			if doc := docs[typ.Name()+"."+f.Name]; doc != "" {
				b.WriteString("\n" + comment(doc, f.Tag.Get("reload") != ""))
			}
			fmt.Fprintf(b, "#%s = %s\n", tomlName(f), literal(v.Field(i)))
		}
	}
	for _, f := range later {
		f()
	}
}

func comment(doc string, reload bool) string {
	var b strings.Builder
	lines := strings.Split(strings.TrimSpace(doc), "\n")
	if reload {
		lines[len(lines)-1] += " (reload)"
	}
	for _, l := range lines {
		b.WriteString(strings.TrimRight("# "+l, " ") + "\n")
	}
	return b.String()
}

// comments reads keys.go: "Type" and "Type.Field" to their comments.
func comments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			ts := s.(*ast.TypeSpec)
			doc := g.Doc.Text()
			// "Log is what the daemon says" becomes "What the daemon says".
			if _, rest, ok := strings.Cut(doc, ts.Name.Name+" is "); ok {
				doc = strings.ToUpper(rest[:1]) + rest[1:]
			}
			out[ts.Name.Name] = doc
			for _, f := range ts.Type.(*ast.StructType).Fields.List {
				for _, n := range f.Names {
					out[ts.Name.Name+"."+n.Name] = f.Doc.Text()
				}
			}
		}
	}
	return out
}

// Every key is explained, by itself or together with the one above it.
func TestEveryKeyIsExplained(t *testing.T) {
	docs := comments(t)
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			switch {
			case isTable(f.Type):
				if docs[f.Type.Name()] == "" {
					t.Errorf("%s has no comment", f.Type.Name())
				}
				walk(f.Type)
			case isRows(f.Type):
				walk(f.Type.Elem())
				fallthrough
			default:
				if docs[typ.Name()+"."+f.Name] == "" && (i == 0 || docs[typ.Name()+"."+typ.Field(i-1).Name] == "") {
					t.Errorf("%s.%s has no comment", typ.Name(), f.Name)
				}
			}
			if tomlName(f) == "" {
				t.Errorf("%s.%s has no name in TOML", typ.Name(), f.Name)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}
