package image

import (
	"context"
	"errors"
	"time"
)

const (
	// freshFor is how long a measured writable layer counts as measured.
	freshFor = 10 * time.Second
	// measureRest bounds what measuring costs: after a walk of some length comes a rest of so many times it.
	measureRest = 4
)

// measure is what is known of the size of a writable layer. It is guarded by Store.mu.
type measure struct {
	usage  Usage
	at     time.Time // zero: never measured
	queued bool
	done   chan struct{} // closed after the first time
}

// KnownUsage is Usage without its walk through the tree. Where there is project quota it is what the kernel counts
// now, the snapshot's own folders with it. Elsewhere it returns what was found last, and when, and has
// the tree measured again in the background if that is long ago. A layer that was never measured is waited
// for until ctx ends; then the time is zero. Nobody asks, nobody measures.
func (s *Store) KnownUsage(ctx context.Context, key string) (Usage, time.Time, error) {
	if err := s.gate.enter(); err != nil {
		return Usage{}, time.Time{}, err
	}
	defer s.gate.calls.Done()
	s.mu.Lock()
	sn, ok := s.snaps[key]
	if !ok {
		s.mu.Unlock()
		return Usage{}, time.Time{}, notHere(key)
	}
	if id := sn.project; id != 0 {
		s.mu.Unlock()
		if u, ok := s.counted(id); ok {
			return u, time.Now(), nil
		}
		s.mu.Lock()
	}
	m := &sn.measure
	if m.done == nil {
		m.done = make(chan struct{})
	}
	if !m.queued && time.Since(m.at) > freshFor {
		m.queued = true
		s.enqueue(key)
	}
	known, done := *m, m.done
	s.mu.Unlock()
	if !known.at.IsZero() {
		return known.usage, known.at, nil
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-s.life.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.usage, m.at, nil
}

// enqueue has a layer measured. It needs mu.
func (s *Store) enqueue(key string) {
	s.unmeasured = append(s.unmeasured, key)
	if !s.measuring && s.life.Err() == nil {
		s.measuring = true
		s.workers.Go(s.measurer)
	}
}

// measurer measures what is queued, one after the other, and ends when nothing is.
func (s *Store) measurer() {
	var worked time.Duration // since the last rest
	for {
		s.mu.Lock()
		if len(s.unmeasured) == 0 || s.life.Err() != nil {
			s.measuring = false
			s.mu.Unlock()
			return
		}
		key := s.unmeasured[0]
		s.unmeasured = s.unmeasured[1:]
		sn := s.snaps[key]
		s.mu.Unlock()
		if sn == nil {
			continue
		}
		began := time.Now()
		u, err := s.Usage(s.life, key)
		worked += time.Since(began)
		s.measuredNow(&sn.measure, u, err)
		if worked < time.Millisecond {
			continue // small ones share a rest
		}
		select {
		case <-time.After(measureRest * worked):
		case <-s.life.Done():
		}
		worked = 0
	}
}

func (s *Store) measuredNow(m *measure, u Usage, err error) {
	if err != nil && !errors.Is(err, ErrNotFound) && s.life.Err() == nil {
		s.log.Warn("a writable layer could not be measured", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m.queued = false
	if err != nil {
		return
	}
	if m.at.IsZero() {
		close(m.done)
	}
	m.usage, m.at = u, time.Now()
}
