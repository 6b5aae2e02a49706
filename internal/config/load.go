package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// DefaultPath is where the file is if nothing else is said.
const DefaultPath = "/etc/berth/config.toml"

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// Loaded is a configuration whose values know where they came from.
type Loaded struct {
	Config
	// Files are those that were read, in order.
	Files   []string
	origins map[string]string // by key: "/etc/berth/config.toml:12", "--bridge", "$BERTH_BRIDGE"
}

// Load reads the file at path and the drop-ins in config.d beside it. A file that is missing is no error
// unless it is required. The values are not checked yet: see Check.
func Load(path string, required bool) (*Loaded, error) {
	l := &Loaded{Config: Default(), origins: map[string]string{}}
	data, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !required:
	case err != nil:
		return nil, fmt.Errorf("read the configuration: %w", err)
	default:
		if err := l.add(path, data); err != nil {
			return nil, err
		}
	}
	// Not by a pattern: the folder's name may hold what a pattern takes for its own.
	dropins := filepath.Join(filepath.Dir(path), "config.d")
	entries, err := os.ReadDir(dropins)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	var errs []error
	for _, e := range entries { // sorted
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".toml") {
			continue
		}
		file := filepath.Join(dropins, e.Name())
		data, err := readFile(file)
		if err == nil {
			err = l.add(file, data)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return l, errors.Join(errs...)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes, which no configuration is", path, maxFile)
	}
	return data, err
}

// add lays a file's values over those that are there.
func (l *Loaded) add(path string, data []byte) error {
	d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := d.Decode(&l.Config); err != nil {
		return explain(path, data, err)
	}
	l.Files = append(l.Files, path)
	for key, line := range lines(data) {
		l.origins[key] = fmt.Sprintf("%s:%d", path, line)
	}
	return nil
}

// explain turns the decoder's errors into one line each: file, line, key, what is wrong and what is right.
func explain(path string, data []byte, err error) error {
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		var errs []error
		for _, e := range unknown.Errors {
			line, _ := e.Position()
			errs = append(errs, fmt.Errorf("%s:%d: %s: there is no such key%s", path, line, joinKey(e.Key()), suggestion(e.Key())))
		}
		return errors.Join(errs...)
	case errors.As(err, &bad):
		line, _ := bad.Position()
		msg := strings.TrimPrefix(bad.Error(), "toml: ")
		if len(bad.Key()) == 0 {
			return fmt.Errorf("%s:%d: %s", path, line, msg)
		}
		if t := typeOf(bad.Key()); t != nil && (strings.HasPrefix(msg, "cannot ") || strings.HasPrefix(msg, "netip.")) {
			msg = "it takes " + wants(t)
		}
		return fmt.Errorf("%s:%d: %s: %s", path, line, joinKey(bad.Key()), msg)
	}
	key, line := culprit(data) // it was a type's own decoder
	if t := typeOf(key); t != nil && len(key) > 0 {
		return fmt.Errorf("%s:%d: %s: it takes %s", path, line, joinKey(key), wants(t))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// typeOf is the type of what a key names, nil if it names nothing.
func typeOf(key []string) reflect.Type {
	t := reflect.TypeFor[Config]()
	for _, part := range key {
		switch t.Kind() {
		case reflect.Map:
			if t = t.Elem(); t.Kind() == reflect.Interface {
				return nil // whatever it is, it is the shim's business
			}
			continue
		default:
			if !isTable(t) {
				return nil
			}
		}
		i := slices.Index(namesIn(t), part)
		if i < 0 {
			return nil
		}
		t = t.Field(i).Type
	}
	return t
}

// namesIn are the keys of a table.
func namesIn(t reflect.Type) []string {
	if !isTable(t) {
		return nil
	}
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = tomlName(t.Field(i))
	}
	return names
}

// Set lays a flag's or a variable's value over what files say. Lists are separated by commas. Origin says
// where it came from: "--bridge", "$BERTH_BRIDGE".
func (l *Loaded) Set(key, text, origin string) error {
	for _, f := range l.fields() {
		if f.key == key {
			if err := parse(f.value, text); err != nil {
				return fmt.Errorf("%s: %w", origin, err)
			}
			l.origins[key] = origin
			return nil
		}
	}
	return fmt.Errorf("%s: there is no key %s", origin, key)
}

// Origin says where a key's value came from: "FILE:LINE", "--FLAG", "$VARIABLE" or "default".
func (l *Loaded) Origin(key string) string {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return "default"
}
