package config

import (
	_ "embed"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// DefaultText is a configuration file in which every key is explained and commented out with its default.
//
//go:embed default.toml
var DefaultText string

// Show writes the configuration as it holds, a comment behind each value saying where it came from.
func (l *Loaded) Show(w io.Writer) error {
	var b strings.Builder
	table := ""
	for _, f := range l.fields() {
		name := f.key
		if i := lastDot(f.key); i >= 0 {
			name = f.key[i+1:]
			if f.key[:i] != table {
				table = f.key[:i]
				fmt.Fprintf(&b, "\n[%s]\n", table)
			}
		}
		fmt.Fprintf(&b, "%-40s # %s\n", name+" = "+literal(f.value), l.Origin(f.key))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lastDot finds where a key's last part begins; names of fields are never quoted.
func lastDot(key string) int { return strings.LastIndexByte(key, '.') }

// Change is a key whose value is another one than before.
type Change struct {
	Key, Old, New string // values as TOML; "" where there was none
	// Reload tells that a running daemon takes it over; else it needs a restart.
	Reload bool
}

// Changes lists what is different in next.
func (l *Loaded) Changes(next *Loaded) []Change {
	var out []Change
	before := map[string]field{}
	for _, f := range l.fields() {
		before[f.key] = f
	}
	for _, f := range next.fields() {
		c := Change{Key: f.key, New: literal(f.value), Reload: f.reload}
		if old, ok := before[f.key]; ok {
			c.Old = literal(old.value)
			delete(before, f.key)
		}
		if c.Old != c.New {
			out = append(out, c)
		}
	}
	for _, f := range l.fields() { // rows that are gone
		if _, gone := before[f.key]; gone {
			out = append(out, Change{Key: f.key, Old: literal(f.value), Reload: f.reload})
		}
	}
	return out
}

// Adopt takes over from next what a running daemon can change.
func (l *Loaded) Adopt(next *Loaded) {
	adopt(reflect.ValueOf(&l.Config).Elem(), reflect.ValueOf(&next.Config).Elem())
	for _, f := range append(l.fields(), next.fields()...) {
		if f.reload {
			delete(l.origins, f.key)
			if o, ok := next.origins[f.key]; ok {
				l.origins[f.key] = o
			}
		}
	}
}

func adopt(to, from reflect.Value) {
	for i := range to.NumField() {
		f := to.Type().Field(i)
		switch {
		case f.Tag.Get("reload") != "":
			to.Field(i).Set(from.Field(i))
		case isTable(f.Type):
			adopt(to.Field(i), from.Field(i))
		}
	}
}
