package main

import (
	"path/filepath"
	"slices"
	"testing"
)

const said = `TAP version 13
ok 1 - first
not ok 2 - second
  ---
  { "level": "MUST" }
  ...
ok 3 - third # SKIP not here
ok 4 - second
ok 5 # SKIP nor here
1..5
`

func TestPointsAndTable(t *testing.T) {
	r := result{output: said, broken: true}
	r.parse()
	if !slices.Equal(r.passed, []string{"first", "second"}) || !slices.Equal(r.failed, []string{"second"}) || r.skipped != 2 {
		t.Fatalf("%+v", r)
	}
	path := filepath.Join(t.TempDir(), "table.md")
	all := map[string]map[string]result{"Berth": {"x": r}, "runc": {"x": {passed: []string{"first", "second", "second"}}}}
	both := []runtime{{name: "Berth"}, {name: "runc"}}
	if err := writeTable(path, both, all); err != nil {
		t.Fatal(err)
	}
	if err := checkTable(path, all["Berth"]); err != nil {
		t.Errorf("the same as in the table: %v", err)
	}
	worse := result{passed: r.passed[:1], failed: r.failed}
	if checkTable(path, map[string]result{"x": worse}) == nil {
		t.Error("a point less is no error")
	}
	if got := r.lacks(all["runc"]["x"]); !slices.Equal(got, []string{"second", "the program reaches its end"}) {
		t.Errorf("lacks %q", got)
	}
	if compare(both, all) == nil {
		t.Error("worse than the peer is no error")
	}
}
