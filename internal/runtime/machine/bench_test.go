package machine_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/trace"
)

// BenchmarkPodStart measures RunSandbox + CreateContainer + StartContainer until the program has been
// executed, one pod at a time, and logs the median of every span. Stop and removal are not in it.
func BenchmarkPodStart(b *testing.B) {
	for _, host := range []bool{true, false} {
		b.Run(map[bool]string{true: "host", false: "bridge"}[host], func(b *testing.B) {
			p := newPlace(b)
			p.Spare = true
			d := p.open(b)
			ctx := context.Background()
			spans := map[string][]time.Duration{}
			var whole []time.Duration
			for i := range b.N {
				rec := &trace.Recorder{}
				tctx := trace.With(ctx, rec)
				began := time.Now()
				sb, err := d.rt.RunSandbox(tctx, p.pod(fmt.Sprint("p", i), host))
				if err != nil {
					b.Fatal(err)
				}
				ran := time.Now()
				c, err := d.rt.CreateContainer(tctx, sb, runtime.ContainerSpec{Name: "main", Image: "test.local/busybox:1"})
				if err != nil {
					b.Fatal(err)
				}
				created := time.Now()
				if err := d.rt.StartContainer(tctx, c); err != nil {
					b.Fatal(err)
				}
				done := time.Now()
				whole = append(whole, done.Sub(began))
				rec.Add(trace.Span{Name: "=RunSandbox", Duration: ran.Sub(began)}, trace.Span{Name: "=CreateContainer", Duration: created.Sub(ran)},
					trace.Span{Name: "=StartContainer", Duration: done.Sub(created)})
				more, _ := d.rt.Trace(ctx, sb)
				for _, s := range append(rec.Spans(), more...) {
					spans[s.Name] = append(spans[s.Name], s.Duration)
				}
				gone := time.Now()
				if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
					b.Fatal(err)
				}
				spans["=RemoveSandbox"] = append(spans["=RemoveSandbox"], time.Since(gone))
			}
			b.ReportMetric(float64(median(whole).Microseconds())/1000, "p50-ms")
			names := make([]string, 0, len(spans))
			for n := range spans {
				names = append(names, n)
			}
			slices.Sort(names)
			var table strings.Builder
			for _, n := range names {
				fmt.Fprintf(&table, "\n%-28s %8.3f ms", n, float64(median(spans[n]).Microseconds())/1000)
			}
			fmt.Fprintln(os.Stderr, table.String()) // b.Log would cut it off
		})
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
