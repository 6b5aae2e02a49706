package main

import (
	"io"
	"strings"
	"testing"
)

// A spec that does not end as expected is an error, and so is an expectation that nothing meets.
func TestJudge(t *testing.T) {
	exceptions := func() expectation {
		return expectation{{State: "skipped", Text: "AppArmor", Reason: "r"}, {State: "failed", Text: "hard", Reason: "r"}}
	}
	good := []spec{{Name: "easy", State: "passed"}, {Name: "AppArmor one", State: "skipped"}, {Name: "hard one", State: "panicked"}}
	with := func(i int, state string) []spec {
		out := append([]spec(nil), good...)
		out[i].State = state
		return out
	}
	for _, c := range []struct {
		specs []spec
		some  bool
		says  string
	}{
		{good, false, ""},
		{with(0, "failed"), false, "failed, but should have passed: easy"},
		{with(0, "timedout"), false, "failed, but should have passed: easy"},
		{with(0, "skipped"), false, "skipped, but should have passed: easy"},
		{with(1, "passed"), false, "passed, but should have skipped"},
		{with(2, "passed"), false, "passed, but should have failed"},
		{good[:2], false, "no such spec"},
		{good[:2], true, ""},
		{nil, true, "no spec ran"},
	} {
		err := judge(io.Discard, append([]spec(nil), c.specs...), exceptions(), c.some, 0)
		if (err == nil) != (c.says == "") || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%v: %v, want %q", c.specs, err, c.says)
		}
	}
}

func TestExpectation(t *testing.T) {
	if _, err := readExpectation(false); err != nil {
		t.Fatal(err)
	}
}
