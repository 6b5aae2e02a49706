package config

import (
	"encoding"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// field is one key with its value.
type field struct {
	key    string // "network.subnets"
	value  reflect.Value
	reload bool
}

// fields lists every key of c in the order of Config's fields; rows of tables by their names.
func (c *Config) fields() []field { return fieldsOf(reflect.ValueOf(c).Elem(), "", false) }

func fieldsOf(v reflect.Value, prefix string, reload bool) []field {
	var out []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key, reload := prefix+tomlName(f), reload || f.Tag.Get("reload") != ""
		switch {
		case isTable(f.Type):
			out = append(out, fieldsOf(v.Field(i), key+".", reload)...)
		case isRows(f.Type):
			rows := v.Field(i)
			for _, name := range slices.Sorted(maps.Keys(rows.Interface().(map[string]Handler))) {
				row := reflect.New(f.Type.Elem()).Elem() // a row of a map can be read only
				row.Set(rows.MapIndex(reflect.ValueOf(name)))
				for _, cell := range fieldsOf(row, key+"."+quoteKey(name)+".", reload) {
					if k := cell.value.Kind(); k != reflect.Map && k != reflect.Slice || cell.value.Len() > 0 {
						out = append(out, cell)
					}
				}
			}
		default:
			out = append(out, field{key, v.Field(i), reload})
		}
	}
	return out
}

// isTable tells a table of keys from a value that happens to be a struct.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// isRows tells a table of tables from a value that happens to be a map.
func isRows(t reflect.Type) bool { return t.Kind() == reflect.Map && isTable(t.Elem()) }

func tomlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	return name
}

// quoteKey is a part of a key as TOML writes it.
func quoteKey(part string) string {
	plain := part != "" && strings.IndexFunc(part, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
	if plain {
		return part
	}
	return strconv.Quote(part)
}

func joinKey(parts []string) string {
	quoted := make([]string, len(parts))
	for i, p := range parts {
		quoted[i] = quoteKey(p)
	}
	return strings.Join(quoted, ".")
}

// literal is the value as TOML writes it.
func literal(v reflect.Value) string {
	if t, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := t.MarshalText()
		if err != nil {
			return strconv.Quote(err.Error())
		}
		return strconv.Quote(string(b))
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Interface:
		return literal(v.Elem())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = literal(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map: // of a shim's options
		var items []string
		for _, key := range slices.Sorted(maps.Keys(v.Interface().(map[string]any))) {
			items = append(items, quoteKey(key)+" = "+literal(v.MapIndex(reflect.ValueOf(key))))
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	if v.Kind() == reflect.Float64 && v.Float() == float64(int64(v.Float())) {
		return fmt.Sprintf("%.1f", v.Float()) // TOML tells 1.0 from 1
	}
	return fmt.Sprint(v.Interface())
}

// parse sets the value from a flag's or a variable's text; lists are separated by commas.
func parse(v reflect.Value, text string) error {
	switch t := v.Addr().Interface().(type) {
	case *netip.Prefix:
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("%q is no address range: write it like 10.88.0.0/16", text)
		}
		*t = p
		return nil
	case encoding.TextUnmarshaler:
		return t.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is no whole number", text)
		}
		v.SetInt(int64(n))
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is no number", text)
		}
		v.SetFloat(n)
	case reflect.Slice:
		list := reflect.MakeSlice(v.Type(), 0, 0)
		for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' }) {
			item := reflect.New(v.Type().Elem()).Elem()
			if err := parse(item, strings.TrimSpace(part)); err != nil {
				return err
			}
			list = reflect.Append(list, item)
		}
		v.Set(list)
	default:
		return fmt.Errorf("a value of type %s can't be given as text", v.Type())
	}
	return nil
}

// wants says what a key takes, for a message.
func wants(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		if isTable(t) {
			return "a table"
		}
		return "a text in quotes, as \"10m\""
	case reflect.Map:
		return "a table"
	case reflect.String:
		return "a text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		if t.Elem() == reflect.TypeFor[netip.Prefix]() {
			return "a list of address ranges, as [\"10.88.0.0/16\"]"
		}
		return "a list, as [\"a\", \"b\"]"
	}
	return "a whole number"
}
