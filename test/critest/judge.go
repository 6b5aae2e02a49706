package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

//go:embed expected.txt
var expectedText string

// exception is a line of expected.txt: the specs whose name contains Text end so, for Reason.
type exception struct {
	State, Text, Reason string
	used                bool
}

type expectation []*exception

// conditions are what an exception may be tied to.
var conditions = map[string]func() bool{
	"without-apparmor": func() bool {
		b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		return err != nil || !strings.HasPrefix(string(b), "Y")
	},
	"without-selinux": func() bool {
		_, err := os.Stat("/sys/fs/selinux/enforce")
		return err != nil
	},
}

// readExpectation reads expected.txt, whose head says what a line is.
func readExpectation(containerd bool) (expectation, error) {
	var out expectation
	conditions := maps.Clone(conditions)
	conditions["under-containerd"] = func() bool { return containerd }
	conditions["under-berth"] = func() bool { return !containerd }
	for s := bufio.NewScanner(strings.NewReader(expectedText)); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		text, reason, ok := strings.Cut(line, " # ")
		f := strings.SplitN(text, " ", 3)
		if !ok || len(f) != 3 || (f[0] != "skipped" && f[0] != "failed") {
			return nil, fmt.Errorf("expected.txt: %q is not STATE WHEN TEXT # REASON", line)
		}
		when, known := conditions[f[1]]
		if !known && f[1] != "always" {
			return nil, fmt.Errorf("expected.txt: there is no condition %q", f[1])
		}
		if known && !when() {
			continue
		}
		out = append(out, &exception{State: f[0], Text: strings.TrimSpace(f[2]), Reason: reason})
	}
	return out, nil
}

func (e expectation) of(s spec) *exception {
	for _, x := range e {
		if strings.Contains(s.Name, x.Text) {
			x.used = true
			return x
		}
	}
	return nil
}

// verdict sorts a spec's end into passed, skipped and failed.
func (s spec) verdict() string {
	if s.State == "passed" || s.State == "skipped" || s.State == "pending" {
		return strings.Replace(s.State, "pending", "skipped", 1)
	}
	return "failed"
}

// judge prints how the specs ended and fails if any did not as it should. With some only, those that
// did not run are left out.
func judge(w io.Writer, specs []spec, want expectation, some bool, took time.Duration) error {
	for _, x := range want {
		x.used = false
	}
	slices.SortFunc(specs, func(a, b spec) int { return strings.Compare(a.Name, b.Name) })
	count := map[string]int{}
	var wrong []string
	for _, s := range specs {
		got, x, note := s.verdict(), want.of(s), ""
		if some && got == "skipped" && s.Message == "" {
			continue
		}
		count[got]++
		expected := "passed"
		if x != nil {
			expected, note = x.State, " ("+x.Reason+")"
		}
		if got != expected {
			wrong = append(wrong, fmt.Sprintf("%s, but should have %s: %s\n    %s", got, expected, s.Name, indent(s.Message)))
		}
		fmt.Fprintf(w, "%-7s %6.1fs  %s%s\n", got, s.Seconds, s.Name, note)
	}
	for _, x := range want {
		if !x.used && !some {
			wrong = append(wrong, fmt.Sprintf("expected.txt names %q, and there is no such spec", x.Text))
		}
	}
	fmt.Fprintf(w, "critest: %d passed, %d failed, %d skipped of %d in %.0f s\n", count["passed"], count["failed"], count["skipped"], len(specs), took.Seconds())
	if len(wrong) > 0 {
		return fmt.Errorf("%d specs did not end as they should:\n%s", len(wrong), strings.Join(wrong, "\n"))
	}
	if count["passed"] == 0 {
		return errors.New("no spec ran")
	}
	return nil
}

// indent shortens a failure's message, which may print whole structures, to what a reader wants.
func indent(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[:min(len(lines), 8)], "\n    ")
}
