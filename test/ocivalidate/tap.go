package main

import (
	"fmt"
	"regexp"
	"strings"
)

// result is what a program said of a runtime, in the Test Anything Protocol.
type result struct {
	passed, failed []string // what was tested
	skipped        int
	broken         bool // the program gave up
	output, errors string
}

var point = regexp.MustCompile(`^(not )?ok\b *\d* *-? *(.*)$`)

func (r *result) parse() {
	for line := range strings.Lines(r.output) {
		m := point.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if m == nil {
			continue
		}
		what, directive, _ := strings.Cut(" "+m[2], " # ")
		what = strings.TrimSpace(what)
		switch {
		case strings.HasPrefix(strings.ToUpper(directive), "SKIP"):
			r.skipped++
		case m[1] == "":
			r.passed = append(r.passed, what)
		default:
			r.failed = append(r.failed, what)
		}
	}
}

// String is the result as a cell of the table: "270, 37 skipped", "4, 2 failed", "gave up".
func (r result) String() string {
	parts := []string{fmt.Sprint(len(r.passed))}
	if len(r.failed) > 0 {
		parts = append(parts, fmt.Sprint(len(r.failed), " failed"))
	}
	if r.skipped > 0 {
		parts = append(parts, fmt.Sprint(r.skipped, " skipped"))
	}
	if r.broken {
		parts = append(parts, "gave up")
	}
	return strings.Join(parts, ", ")
}

// races are programs whose result depends on who is faster: pidfile kills a container whose program is ending by itself.
var races = map[string]bool{"pidfile": true}

// lacks lists what passed for the peer and not here. Where only the peer gave up there is nothing to compare: some
// programs want the runtime to refuse, say nothing if it does, and else go on and find everything in order.
func (r result) lacks(peer result) []string {
	if peer.broken && !r.broken {
		return nil
	}
	// Nor where the peer came less far: that something is refused is easy then.
	if len(r.passed) >= len(peer.passed) && len(r.failed) < len(peer.failed) {
		return nil
	}
	count := map[string]int{}
	for _, p := range r.passed {
		count[p]++
	}
	var list []string
	for _, p := range peer.passed {
		if count[p]--; count[p] < 0 {
			list = append(list, p)
		}
	}
	if r.broken && !peer.broken {
		list = append(list, "the program reaches its end")
	}
	return list
}
