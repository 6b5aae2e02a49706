package hosts

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is a host's table of hosts.toml, and the file's own keys, which are the server's.
type entry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or a list of files
	Client       any            `toml:"client"` // a file, a list of files, or a list of pairs
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // a text, or a list of texts
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

type document struct {
	entry
	Server string           `toml:"server"`
	Host   map[string]entry `toml:"host"`
}

// Parse reads a hosts.toml; dir is where its relative file names begin.
func Parse(b []byte, dir string) (Hosts, error) {
	if len(b) > maxFile {
		return Hosts{}, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	var d document
	if err := toml.Unmarshal(b, &d); err != nil {
		return Hosts{}, decodeError(err)
	}
	names, err := order(b)
	if err != nil {
		return Hosts{}, err
	}
	// An inline table (host = {…}) has no order of its own; the file may have one host there at most.
	for name := range d.Host {
		if len(names) == 0 && len(d.Host) == 1 {
			names = append(names, name)
		}
	}
	if len(names) != len(d.Host) {
		return Hosts{}, errors.New(`host: write each host as a table of its own, [host."https://…"], so that their order is known`)
	}
	if len(names) > maxHost {
		return Hosts{}, fmt.Errorf("host: there are %d hosts, %d are possible", len(names), maxHost)
	}
	h := Hosts{Notes: unknownKeys(b)}
	for _, name := range names {
		e := d.Host[name]
		host, err := e.host(name, dir)
		if err != nil {
			return Hosts{}, fmt.Errorf("host %q: %w", name, err)
		}
		h.List = append(h.List, host)
	}
	server, err := d.host(d.Server, dir)
	if err != nil {
		return Hosts{}, err
	}
	server.Server = true
	h.List = append(h.List, server)
	return h, nil
}

func decodeError(err error) error {
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		return fmt.Errorf("line %d: %s: %w", row, strings.Join(de.Key(), "."), err)
	}
	return err
}

// unknownKeys are the keys that nobody reads.
func unknownKeys(b []byte) []string {
	var notes []string
	dec := toml.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	var d document
	var missing *toml.StrictMissingError
	if err := dec.Decode(&d); errors.As(err, &missing) {
		for _, e := range missing.Errors {
			notes = append(notes, fmt.Sprintf("the key %s is not known and does nothing", strings.Join(e.Key(), ".")))
		}
	}
	return notes
}

// order returns the names of the host tables in the order of the file, which is the one to ask them in.
func order(b []byte) ([]string, error) {
	var p unstable.Parser
	p.Reset(b)
	var names []string
	seen := map[string]bool{}
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		var parts []string
		for it := e.Key(); it.Next() && len(parts) < 2; {
			parts = append(parts, string(it.Node().Data))
		}
		if len(parts) == 2 && parts[0] == "host" && !seen[parts[1]] && e.Kind == unstable.Table {
			seen[parts[1]] = true
			names = append(names, parts[1])
		}
	}
	return names, p.Error()
}

// host checks an entry; server is its URL.
func (e *entry) host(server, dir string) (h Host, err error) {
	if h.URL, err = e.url(server); err != nil {
		return h, err
	}
	if err := e.capabilities(&h); err != nil {
		return h, err
	}
	h.SkipVerify = e.SkipVerify
	if h.CAs, err = files("ca", e.CA, dir); err != nil {
		return h, err
	}
	if h.Pairs, err = pairs(e.Client, dir); err != nil {
		return h, err
	}
	if h.Header, err = header(e.Header); err != nil {
		return h, err
	}
	if e.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(e.DialTimeout); err != nil || h.DialTimeout <= 0 {
			return h, fmt.Errorf(`dial_timeout: %q is no duration like "5s"`, e.DialTimeout)
		}
	}
	return h, nil
}

func (e *entry) url(server string) (url.URL, error) {
	if server == "" {
		return url.URL{}, nil
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return url.URL{}, fmt.Errorf("the URL %q can't be read: %w", server, err)
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return url.URL{}, fmt.Errorf("%q is not like https://host:port/path", u.Redacted())
	}
	root := path.Clean("/" + u.Path)
	switch {
	case root == "/" && e.OverridePath:
		root = ""
	case root == "/":
		root = "/v2"
	case !strings.HasSuffix(root, "/v2") && !e.OverridePath:
		root += "/v2"
	}
	return url.URL{Scheme: u.Scheme, Host: u.Host, Path: root}, nil
}

func (e *entry) capabilities(h *Host) error {
	if len(e.Capabilities) == 0 {
		h.Pull, h.Resolve, h.Push = true, true, true
		return nil
	}
	for _, c := range e.Capabilities {
		switch strings.ToLower(c) {
		case "pull":
			h.Pull = true
		case "resolve":
			h.Resolve = true
		case "push":
			h.Push = true
		case "referrers":
		default:
			return fmt.Errorf("capabilities: %q is none of pull, resolve, push, referrers", c)
		}
	}
	return nil
}

// files reads a file name or a list of them.
func files(key string, v any, dir string) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{absolute(v, dir)}, nil
	case []any:
		var list []string
		for _, f := range v {
			s, ok := f.(string)
			if !ok {
				return nil, fmt.Errorf("%s: %v is no file name", key, f)
			}
			list = append(list, absolute(s, dir))
		}
		return list, nil
	}
	return nil, fmt.Errorf("%s: it takes a file name or a list of file names", key)
}

// pairs reads the client certificates.
func pairs(v any, dir string) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
		if v == nil {
			return nil, nil
		}
	}
	var out [][2]string
	for _, p := range list {
		names, err := files("client", p, dir)
		if err != nil {
			return nil, err
		}
		switch _, nested := p.([]any); {
		case nested && len(names) == 2:
			out = append(out, [2]string{names[0], names[1]})
		case !nested && len(names) == 1:
			out = append(out, [2]string{names[0], names[0]})
		default:
			return nil, errors.New("client: a pair has two files, certificate and key")
		}
	}
	return out, nil
}

func header(m map[string]any) (http.Header, error) {
	if len(m) == 0 {
		return nil, nil
	}
	out := http.Header{}
	for key, v := range m {
		values, ok := v.([]any)
		if !ok {
			values = []any{v}
		}
		for _, v := range values {
			s, ok := v.(string)
			if !ok || strings.ContainsAny(key+s, "\r\n\x00") || key == "" {
				return nil, fmt.Errorf("header.%q: it takes a text, or a list of texts, of one line each", key)
			}
			out.Add(key, s)
		}
	}
	return out, nil
}

func absolute(p, dir string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(dir, p)
}
