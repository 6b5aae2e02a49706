// Package eventlog keeps the node's latest changes: numbered, in a bounded ring, for any number of readers
// that come and go and take up where they were.
//
// A producer never waits: a reader that is slower than the ring is long is told how many events it
// missed and goes on with the oldest that is left. Numbers never go back, also across restarts of the
// daemon, because a log begins at the present time in microseconds.
package eventlog

import (
	"context"
	"sync"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

// Log is a ring of events.
type Log struct {
	mu    sync.Mutex
	size  int           // of the ring, once it is full
	ring  []api.Event   // grows up to size, so that a log of nothing weighs nothing
	start uint64        // the number of the first event that was ever in it
	first uint64        // the number of the oldest event in the ring
	next  uint64        // the number that the next event gets; next-first == len(ring)
	grown chan struct{} // closed and replaced when an event is added
}

// New returns a log of at most size events whose first number follows from start.
func New(size int, start time.Time) *Log {
	n := uint64(start.UnixMicro())
	return &Log{size: size, start: n, first: n, next: n, grown: make(chan struct{})}
}

// Add gives e a number and, if it has none, a time, and wakes the readers.
func (l *Log) Add(e api.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq = l.next
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
	} else {
		*l.at(l.next) = e
		l.first++
	}
	l.next++
	close(l.grown)
	l.grown = make(chan struct{})
}

// Read calls fn for each event after since, in order, and waits for more, until ctx ends or fn returns an
// error, which it returns. Since 0 means all that the ring holds. A reader that missed something gets a Gap
// event, whose Seq is that of the last one missed.
func (l *Log) Read(ctx context.Context, since uint64, fn func(api.Event) error) error {
	for {
		batch, grown := l.after(since)
		for _, e := range batch {
			if err := fn(e); err != nil {
				return err
			}
			since = e.Seq
		}
		if len(batch) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}

// at is where the event of a number from first on is, or is to be. It needs mu.
func (l *Log) at(seq uint64) *api.Event { return &l.ring[int((seq-l.start)%uint64(l.size))] }

// batchSize bounds what is copied under the lock.
const batchSize = 256

func (l *Log) after(since uint64) ([]api.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := since + 1
	var batch []api.Event
	if from < l.first {
		if since > 0 {
			batch = append(batch, api.Event{Seq: l.first - 1, Time: time.Now(), Type: api.Gap, Missed: l.first - from})
		}
		from = l.first
	}
	for ; from < l.next && len(batch) < batchSize; from++ {
		batch = append(batch, *l.at(from))
	}
	return batch, l.grown
}
