package book

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
)

const (
	version = 1
	maxSize = 256 << 10 // of any file of the book
)

// state is the file of what belongs to the book and to no owner.
type state struct {
	Version int `json:"version"`
	// Boot is the id of the boot that the book belongs to.
	Boot string `json:"boot"`
	// Next is where each pool goes on after a restart.
	Next []netip.Addr `json:"next"`
}

func readState(path string) (state, error) {
	b, err := readFile(path)
	if err != nil {
		return state{}, err
	}
	return parseState(b)
}

func parseState(b []byte) (state, error) {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return state{}, err
	}
	if st.Version != version {
		return state{}, fmt.Errorf("version is %d, want %d", st.Version, version)
	}
	return st, nil
}

func readEntry(path, owner string) (Entry, error) {
	b, err := readFile(path)
	if err != nil {
		return Entry{}, err
	}
	e, err := parseEntry(b)
	if err == nil && e.Owner != owner {
		err = fmt.Errorf("owner is %q", e.Owner)
	}
	return e, err
}

// parseEntry reads one record and checks all of it.
func parseEntry(b []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(b, &e); err != nil {
		return Entry{}, err
	}
	if e.Owner == "" {
		return Entry{}, errors.New("no owner")
	}
	for _, a := range e.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().Zone() != "" || a.Addr() == a.Masked().Addr() {
			return Entry{}, fmt.Errorf("%s is no pod's address", a)
		}
	}
	for i, p := range e.Ports {
		if err := p.check(); err != nil {
			return Entry{}, err
		}
		for _, q := range e.Ports[:i] {
			if p.collides(q) {
				return Entry{}, fmt.Errorf("port %s is there twice", p)
			}
		}
	}
	return e, nil
}

func (p Port) check() error {
	switch p.Protocol {
	case "tcp", "udp", "sctp":
	default:
		return fmt.Errorf("protocol %q", p.Protocol)
	}
	if p.HostPort == 0 || p.ContainerPort == 0 {
		return fmt.Errorf("port 0 in %s", p)
	}
	if p.HostIP.Is4In6() || p.HostIP.Zone() != "" || p.HostIP.IsUnspecified() {
		return fmt.Errorf("host address %s", p.HostIP)
	}
	return nil
}

func writeEntry(path string, e Entry) error { return writeJSON(path, e) }

// readFile reads a file of limited size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(b) > maxSize {
		err = fmt.Errorf("longer than %d bytes", maxSize)
	}
	return b, err
}

// writeJSON replaces a file in one step. It is not synced: the file is of no use after the machine's crash.
func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}
