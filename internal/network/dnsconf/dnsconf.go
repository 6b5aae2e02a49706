// Package dnsconf renders a pod's /etc/resolv.conf and /etc/hosts, and knows where the node has its own.
// But for NodeFile its functions are pure.
package dnsconf

import (
	"fmt"
	"strings"
)

// DNS is a resolver's configuration (resolv.conf(5)).
type DNS struct {
	Servers  []string
	Searches []string
	Options  []string // "ndots:5", "edns0"
}

// ResolvConf renders a resolv.conf. An error means that a value could not be written without changing the
// meaning of the file.
func ResolvConf(d DNS) (string, error) {
	var b strings.Builder
	for _, words := range [][]string{d.Servers, d.Searches, d.Options} {
		for _, w := range words {
			if err := word(w); err != nil {
				return "", fmt.Errorf("resolv.conf: %w", err)
			}
		}
	}
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String(), nil
}

// word refuses what would become something else in a file of words and lines.
func word(w string) error {
	if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' || r == ';' }) {
		return fmt.Errorf("%q is not a word", w)
	}
	return nil
}
