package main

import (
	"slices"
	"sync"
	"time"
)

// What is measured, in the order of the table.
var measured = []string{"pod start", "  RunPodSandbox", "  CreateContainer", "  StartContainer", "ExecSync", "stop + remove", "image pull", "image removal", "  its files gone"}

// samples are times by what was measured. Its methods may be called from several goroutines.
type samples struct {
	mu sync.Mutex
	ms map[string][]float64
}

func newSamples() *samples { return &samples{ms: map[string][]float64{}} }

// since adds the time from t to now, and returns now.
func (s *samples) since(what string, t time.Time) time.Time {
	now := time.Now()
	s.add(what, now.Sub(t))
	return now
}

func (s *samples) add(what string, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ms[what] = append(s.ms[what], float64(took)/float64(time.Millisecond))
}

func (s *samples) rows(runtime, network string, n int) []row {
	var rows []row
	for _, what := range measured {
		all := slices.Sorted(slices.Values(s.ms[what]))
		if len(all) == 0 {
			continue
		}
		at := func(q float64) float64 { return all[min(len(all)-1, int(q*float64(len(all))))] }
		rows = append(rows, row{Runtime: runtime, Network: network, AtOnce: n, What: what, Samples: len(all), P50: at(.5), P90: at(.9), P99: at(.99)})
	}
	return rows
}
