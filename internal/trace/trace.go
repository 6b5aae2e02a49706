// Package trace records where the time of one operation goes: named spans, kept in memory, handed to
// whoever asked. A context without a Recorder costs one map-free look-up and records nothing.
package trace

import (
	"context"
	"sync"
	"time"
)

// Span is one step. Start is wall-clock time, so that spans of the daemon and of a shim on the same
// machine can be laid side by side; Duration is in nanoseconds.
type Span struct {
	Name     string        `json:"name"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"duration"`
}

// Recorder collects spans. Its methods may be called from several goroutines.
type Recorder struct {
	mu    sync.Mutex
	spans []Span
}

type key struct{}

// With returns a context whose spans go to r.
func With(ctx context.Context, r *Recorder) context.Context { return context.WithValue(ctx, key{}, r) }

// From returns the context's recorder, or nil.
func From(ctx context.Context) *Recorder {
	r, _ := ctx.Value(key{}).(*Recorder)
	return r
}

// Start begins a span called name; the function that it returns ends it.
//
//	defer trace.Start(ctx, "cgroup.create")()
func Start(ctx context.Context, name string) func() {
	r := From(ctx)
	if r == nil {
		return func() {}
	}
	start := time.Now()
	return func() { r.Add(Span{Name: name, Start: start, Duration: time.Since(start)}) }
}

// Add records spans that were measured elsewhere, as in a shim.
func (r *Recorder) Add(spans ...Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, spans...)
}

// Spans returns a copy of what was recorded so far, in the order in which the spans ended.
func (r *Recorder) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}
