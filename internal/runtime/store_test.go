package runtime

import (
	"os"
	"strings"
	"testing"
)

// Records are written over in place, shorter and longer than a page, and what a crash left of one that was never whole goes.
func TestStore(t *testing.T) {
	s, err := newStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{10, 5000, 3, 4000} {
		want := strings.Repeat("x", size)
		if err := s.save("containers", "a", want); err != nil {
			t.Fatal(err)
		}
		got, err := load[string](s, "containers")
		if err != nil || len(got) != 1 || got["a"] != want {
			t.Fatalf("%d bytes: %d records, %v", size, len(got), err)
		}
	}
	for _, torn := range []string{"b.json", ".c.json.new"} {
		if err := os.WriteFile(s.path("containers", torn), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := load[string](s, "containers"); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if left, err := os.ReadDir(s.path("containers")); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}
