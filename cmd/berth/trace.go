package main

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/11f9778f/berth/internal/trace"
)

// printTrace shows where the time of each pod's start went.
func (s *session) printTrace(ctx context.Context) error {
	for _, uid := range s.order {
		p := s.pods[uid]
		t, err := s.h.node.Trace(ctx, p.namespace, p.name)
		if err != nil {
			return err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "\nwhere the start of pod %s went:\n", p.podName)
		writeSpans(&b, t.Spans)
		s.view.raw([]byte(b.String()))
	}
	return nil
}

// writeSpans draws spans below each other: when each began after the first, how long it took, and a
// bar of both. A span within another is indented.
func writeSpans(w io.Writer, spans []trace.Span) {
	if len(spans) == 0 {
		fmt.Fprintln(w, "  (nothing was recorded)")
		return
	}
	sort.SliceStable(spans, func(i, j int) bool {
		if !spans[i].Start.Equal(spans[j].Start) {
			return spans[i].Start.Before(spans[j].Start)
		}
		return spans[i].Duration > spans[j].Duration
	})
	first := spans[0].Start
	var last time.Time
	for _, sp := range spans {
		if end := sp.Start.Add(sp.Duration); end.After(last) {
			last = end
		}
	}
	const width = 40
	whole := max(last.Sub(first), time.Microsecond)
	var open []time.Time // ends of the spans around this one
	fmt.Fprintf(w, "  %9s %9s\n", "at ms", "took ms")
	for _, sp := range spans {
		end := sp.Start.Add(sp.Duration)
		for len(open) > 0 && end.After(open[len(open)-1]) {
			open = open[:len(open)-1]
		}
		from := int(int64(width) * int64(sp.Start.Sub(first)) / int64(whole))
		long := max(1, int(int64(width)*int64(sp.Duration)/int64(whole)))
		from = min(from, width-1)
		long = min(long, width-from)
		bar := strings.Repeat(" ", from) + strings.Repeat("█", long) + strings.Repeat(" ", width-from-long)
		fmt.Fprintf(w, "  %9.3f %9.3f │%s│ %s%s\n", ms(sp.Start.Sub(first)), ms(sp.Duration), bar, strings.Repeat("  ", len(open)), sp.Name)
		open = append(open, end)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
