package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testLedger(t *testing.T, path string, undone *[]string) *ledger {
	t.Helper()
	l, err := openLedger(path, func(_ context.Context, _ *ledger, e entry) error {
		*undone = append(*undone, string(e.Kind)+" "+e.Args["x"])
		if e.Args["x"] == "stuck" {
			return errors.New("stuck")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

func noEffect(context.Context) error { return nil }

// What was intended and not undone is found again, in order; a record that a crash cut short is not.
func TestLedgerSurvives(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "j")
	var undone []string
	l := testLedger(t, path, &undone)
	failed := errors.New("failed")
	for _, e := range []effect{
		{kind: "a", object: "o", args: map[string]string{"x": "1"}, do: noEffect},
		{kind: "b", object: "o", do: func(context.Context) error { return failed }},
		{kind: "c", object: "o", do: noEffect},
	} {
		if err := l.do(ctx, e); err != nil && err != failed {
			t.Fatal(err)
		}
	}
	if err := l.undoOne(ctx, "c", "o"); err != nil {
		t.Fatal(err)
	}
	l.close()
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"op":"intent","kind":"torn"`)
	f.Close()

	undone = nil
	l = testLedger(t, path, &undone)
	if err := l.do(ctx, effect{kind: "d", object: "p", do: noEffect}); err != nil {
		t.Fatal(err)
	}
	l.close()
	l = testLedger(t, path, &undone)
	var got []string
	for _, e := range l.live("") {
		got = append(got, fmt.Sprint(e.Kind, e.Object, e.done))
	}
	if want := []string{"aotrue", "bofalse", "dptrue"}; !cmp.Equal(got, want) {
		t.Errorf("live %v, want %v", got, want)
	}
	if err := l.undoObject(ctx, "o"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"b ", "a 1"}; !cmp.Equal(undone, want) {
		t.Errorf("undone %q, want %q: the last first", undone, want)
	}
	if err := l.remove(); err == nil {
		t.Error("a journal that owns something was removed")
	}
}

func TestLedgerGoesOnWhenAStepIsStuck(t *testing.T) {
	ctx := context.Background()
	var undone []string
	l := testLedger(t, filepath.Join(t.TempDir(), "j"), &undone)
	for _, x := range []string{"1", "stuck", "3"} {
		l.do(ctx, effect{kind: effectKind("k" + x), object: "o", args: map[string]string{"x": x}, do: noEffect})
	}
	if err := l.undoObject(ctx, "o"); err == nil {
		t.Error("no error")
	}
	if live := l.live("o"); len(undone) != 3 || len(live) != 1 || live[0].Kind != "kstuck" {
		t.Errorf("undone %v, live %v", undone, live)
	}
}

func TestLedgerIsCompacted(t *testing.T) {
	ctx, path := context.Background(), filepath.Join(t.TempDir(), "j")
	var undone []string
	l := testLedger(t, path, &undone)
	l.do(ctx, effect{kind: "keep", object: "o", do: noEffect})
	for range 2000 {
		l.do(ctx, effect{kind: "k", object: "o", do: noEffect})
		l.undoOne(ctx, "k", "o")
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > compactAt+1000 {
		t.Errorf("%v %v", info.Size(), err)
	}
	l.close()
	l = testLedger(t, path, &undone)
	if live := l.live(""); len(live) != 1 || live[0].Kind != "keep" || !live[0].done {
		t.Errorf("%v", live)
	}
}

func TestEventLog(t *testing.T) {
	l := newEventLog(time.Unix(1, 0))
	start := l.position()
	for range 10 {
		l.append(Event{})
	}
	got, _, err := l.after(start + 4)
	if err != nil || len(got) != 6 || got[0].Seq != start+5 {
		t.Fatalf("%v %v", got, err)
	}
	for range eventLogSize {
		l.append(Event{})
	}
	var gap *GapError
	if _, _, err := l.after(start); !errors.As(err, &gap) || gap.Oldest != start+11 || gap.Next != l.position() {
		t.Errorf("reader that is too late: %v", err)
	}
	if _, _, err := l.after(l.position() + 1); !errors.As(err, &gap) {
		t.Errorf("reader from the future: %v", err)
	}
	got, more, err := l.after(gap.Oldest - 1)
	if err != nil || len(got) != eventLogSize || got[len(got)-1].Seq != l.position() {
		t.Fatalf("%d events, %v", len(got), err)
	}
	l.append(Event{})
	select {
	case <-more:
	default:
		t.Error("a waiting reader was not told")
	}
}

func TestActorJoins(t *testing.T) {
	var a actor
	gate, runs := make(chan struct{}), 0
	first := a.join("x", func() error { <-gate; runs++; return nil })
	if second := a.join("x", func() error { t.Error("ran"); return nil }); first != second {
		t.Error("not joined")
	}
	after := a.do(func() error { runs++; return errors.New("no") })
	close(gate)
	if err := after.wait(context.Background()); err == nil || runs != 2 {
		t.Errorf("%v after %d runs", err, runs)
	}
	if a.join("x", nothing) == first {
		t.Error("joined an operation that is over")
	}
}
