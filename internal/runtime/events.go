package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// eventLogSize is how many events are kept for readers that come late.
const eventLogSize = 4096

// GapError tells a reader that the log no longer holds, or never held, what it asks for: list, then
// read on from Next.
type GapError struct{ Since, Oldest, Next uint64 }

func (e *GapError) Error() string {
	return fmt.Sprintf("events after %d are gone: the log holds %d to %d", e.Since, e.Oldest, e.Next)
}

// eventLog is a bounded ring. Writers never wait; each reader goes at its own pace and learns when
// it was too slow.
type eventLog struct {
	mu   sync.Mutex
	ring []Event
	// Invariant: events with base < Seq <= last exist or existed; the ring holds the newest of them.
	base, last uint64
	newest     time.Time
	changed    chan struct{} // closed and replaced at each append
}

// newEventLog begins at a number that no earlier daemon reached: one event a microsecond would have
// to happen for long to come near it.
func newEventLog(now time.Time) *eventLog {
	base := uint64(now.UnixMicro())
	return &eventLog{ring: make([]Event, 0, 64), base: base, last: base, changed: make(chan struct{})}
}

func (l *eventLog) append(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	if !e.Time.After(l.newest) { // the time, too, tells the order
		e.Time = l.newest.Add(1)
	}
	l.newest = e.Time
	if len(l.ring) < eventLogSize {
		l.ring = append(l.ring, e)
	} else {
		l.ring[int((e.Seq-l.base-1)%eventLogSize)] = e
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// after returns the events with a number greater than since, and a channel that tells of more.
func (l *eventLog) after(since uint64) ([]Event, <-chan struct{}, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.last + 1 - uint64(len(l.ring))
	if since+1 < oldest || since > l.last {
		return nil, nil, &GapError{Since: since, Oldest: oldest, Next: l.last}
	}
	var out []Event
	for seq := since + 1; seq <= l.last; seq++ {
		out = append(out, l.ring[int((seq-l.base-1)%eventLogSize)])
	}
	return out, l.changed, nil
}

func (l *eventLog) position() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// EventPosition is the number of the newest event: Events from here yields what comes after now.
func (r *Runtime) EventPosition() uint64 { return r.events.position() }

// Events calls yield with every event after since, in order and each once, until the context ends,
// yield returns an error (which it returns) or the reader is too far behind (a *GapError). A caller
// that lists first takes EventPosition before it lists.
func (r *Runtime) Events(ctx context.Context, since uint64, yield func(Event) error) error {
	for {
		events, more, err := r.events.after(since)
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := yield(e); err != nil {
				return err
			}
			since = e.Seq
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
