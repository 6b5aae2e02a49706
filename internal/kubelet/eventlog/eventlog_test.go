package eventlog

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

var errEnough = errors.New("enough")

func read(t *testing.T, l *Log, since uint64, n int) []api.Event {
	t.Helper()
	var got []api.Event
	err := l.Read(t.Context(), since, func(e api.Event) error {
		got = append(got, e)
		if len(got) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	return got
}

func TestResume(t *testing.T) {
	l := New(8, time.Now())
	for range 5 {
		l.Add(api.Event{Type: api.PodChanged})
	}
	all := read(t, l, 0, 5)
	rest := read(t, l, all[1].Seq, 3)
	if rest[0].Seq != all[1].Seq+1 || rest[2].Seq != all[4].Seq {
		t.Fatalf("got %v after %d", rest, all[1].Seq)
	}
}

func TestGap(t *testing.T) {
	l := New(4, time.Now())
	l.Add(api.Event{})
	first := read(t, l, 0, 1)[0].Seq
	for range 10 {
		l.Add(api.Event{})
	}
	got := read(t, l, first, 5)
	if got[0].Type != api.Gap || got[0].Missed != 6 || got[1].Seq != first+7 {
		t.Fatalf("got %+v", got)
	}
}

// TestSlowReader: one that never returns blocks no producer and no other reader.
func TestSlowReader(t *testing.T) {
	l := New(16, time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		l.Read(ctx, 0, func(api.Event) error { <-ctx.Done(); return ctx.Err() })
	})
	for range 1000 {
		l.Add(api.Event{})
	}
	if got := read(t, l, 0, 16); got[15].Seq != got[0].Seq+15 {
		t.Fatalf("got %d to %d", got[0].Seq, got[15].Seq)
	}
	cancel()
	wg.Wait()
}

func TestNumbersGrowAcrossRestarts(t *testing.T) {
	old := New(4, time.Now())
	for range 100 {
		old.Add(api.Event{})
	}
	time.Sleep(time.Millisecond)
	again := New(4, time.Now())
	if again.next <= old.next {
		t.Fatalf("%d is not after %d", again.next, old.next)
	}
}
