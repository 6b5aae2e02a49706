package runtime

import (
	"context"
	"slices"

	"github.com/11f9778f/berth/internal/trace"
)

// maxSpans bounds what a sandbox remembers; containers that restart for ever begin anew.
const maxSpans = 1000

// traced returns life for an operation that outlives its caller: its spans go to the sandbox, and to
// the caller if that brought a recorder.
func (sb *sandbox) traced(life, caller context.Context) context.Context {
	if rec := trace.From(caller); rec != nil {
		return trace.With(life, rec)
	}
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if len(sb.spans.Spans()) > maxSpans {
		sb.spans = &trace.Recorder{}
	}
	return trace.With(life, sb.spans)
}

// Trace tells where the time of a sandbox's and its containers' operations went, the shim's own spans
// of the containers' starts among them, by their beginning. Operations whose caller brought a recorder
// of its own are not in it.
func (r *Runtime) Trace(ctx context.Context, sandboxID string) ([]trace.Span, error) {
	if _, err := r.Sandbox(sandboxID); err != nil {
		return nil, err
	}
	sb := r.sandbox(sandboxID)
	sb.mu.Lock()
	spans := sb.spans.Spans()
	sb.mu.Unlock()
	if shim, ok := r.cfg.Shims.Lookup(sandboxID); ok {
		for _, c := range sb.children() {
			ctx, cancel := r.shimContext(ctx)
			more, err := shim.TaskTrace(ctx, c.id)
			cancel()
			if err == nil { // it has ended and was cleared
				spans = append(spans, more...)
			}
		}
	}
	slices.SortStableFunc(spans, func(a, b trace.Span) int { return a.Start.Compare(b.Start) })
	return spans, nil
}

// ContainerTrace returns the shim's own spans of a container's start.
func (r *Runtime) ContainerTrace(ctx context.Context, id string) ([]trace.Span, error) {
	c, err := r.listedContainer(id)
	if err != nil {
		return nil, err
	}
	shim, ok := r.cfg.Shims.Lookup(c.sb.id)
	if !ok {
		return nil, nil
	}
	ctx, cancel := r.shimContext(ctx)
	defer cancel()
	return shim.TaskTrace(ctx, id)
}
