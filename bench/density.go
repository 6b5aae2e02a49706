package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// workers is how many pods are started or removed at once, which keeps two cores busy.
	workers = 4
	// settle is how long a runtime may rest before it is weighed: time enough to give memory back.
	settle = 8 * time.Second
	// idle is how long its processor time is watched then.
	idle = 10 * time.Second
	// sustained is how long pods are started and removed again and again.
	sustained = 5 * time.Second
)

// fact is one figure of a full node.
type fact struct {
	Runtime string  `json:"runtime"`
	Pods    int     `json:"pods"`
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	Value   float64 `json:"value"`
}

// density fills a runtime with pods of one container and tells what they cost it.
type density struct {
	t       *target
	network string
	facts   []fact
	pods    []*pod
}

// measureDensity weighs each target at the numbers of pods, one target after the other.
func measureDensity(ctx context.Context, targets []*target, network string, counts []int) ([]fact, error) {
	var facts []fact
	for _, t := range targets {
		if t.daemon == nil {
			continue
		}
		if t.handler != "" {
			// containerd tells no statistics of a pod without a cgroup, which the kubelet makes.
			t.cgroupParent = "/" + filepath.Base(t.daemon.folder())
			defer removeGroups(t.cgroupParent)
		}
		d := &density{t: t, network: network}
		err := d.measure(ctx, counts)
		t.abandon(d.pods)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		facts = append(facts, d.facts...)
	}
	return facts, nil
}

func (d *density) tell(what, unit string, value float64) {
	d.facts = append(d.facts, fact{Runtime: d.t.name, Pods: len(d.pods), What: what, Unit: unit, Value: value})
}

func (d *density) measure(ctx context.Context, counts []int) error {
	if err := d.weigh(ctx); err != nil {
		return err
	}
	for _, n := range counts {
		if err := d.fill(ctx, n); err != nil {
			return err
		}
		if err := d.weigh(ctx); err != nil {
			return err
		}
		if err := d.lists(ctx); err != nil {
			return err
		}
	}
	if err := d.restart(ctx); err != nil {
		return err
	}
	if err := d.empty(ctx); err != nil {
		return err
	}
	return d.sustain(ctx)
}

// fill starts pods until there are n.
func (d *density) fill(ctx context.Context, n int) error {
	have := len(d.pods)
	if n <= have {
		return nil
	}
	d.pods = append(d.pods, make([]*pod, n-have)...)
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := have; i < n; i++ {
		g.Go(func() (err error) { d.pods[i], err = d.t.start(gctx, d.network, newSamples()); return err })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.tell("started, four at a time", "pods/s", float64(n-have)/time.Since(began).Seconds())
	return nil
}

// empty removes all pods.
func (d *density) empty(ctx context.Context) error {
	n := len(d.pods)
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, p := range d.pods {
		g.Go(func() error { return d.t.remove(gctx, p, newSamples()) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.tell("stopped and removed, four at a time", "pods/s", float64(n)/time.Since(began).Seconds())
	d.pods = nil
	return nil
}

// sustain starts and removes pods, each worker one after the other.
func (d *density) sustain(ctx context.Context) error {
	began := time.Now()
	var mu sync.Mutex
	n := 0
	g, gctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			for time.Since(began) < sustained {
				p, err := d.t.start(gctx, d.network, newSamples())
				if err == nil {
					err = d.t.remove(gctx, p, newSamples())
				}
				if err != nil {
					d.t.abandon([]*pod{p})
					return err
				}
				mu.Lock()
				n++
				mu.Unlock()
			}
			return nil
		})
	}
	err := g.Wait()
	d.tell("through start and removal, sustained", "pods/s", float64(n)/time.Since(began).Seconds())
	return err
}

// weigh tells the memory of the daemon and its shims, and what they do while nothing happens. Processes of pods, as pause,
// are not counted.
func (d *density) weigh(ctx context.Context) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	daemon, err := weighProcess(d.t.daemon.pid())
	if err != nil {
		return err
	}
	shims := shimsOf(d.t.daemon.folder())
	var all usage
	for _, pid := range shims {
		if u, err := weighProcess(pid); err == nil { // one that is just ending weighs nothing
			all = all.plus(u)
		}
	}
	d.tell("daemon, RSS", "MiB", daemon.rss)
	if n := float64(len(d.pods)); n > 0 {
		d.tell("shims", "", float64(len(shims)))
		d.tell("shims, PSS a pod", "MiB", all.pss/n)
		d.tell("shims, private a pod", "MiB", all.private/n)
		d.tell("daemon and shims, PSS a pod", "MiB", (all.pss+daemon.pss)/n)
	}
	pids := append(shims, d.t.daemon.pid())
	before := processorTime(pids)
	time.Sleep(idle)
	d.tell("idle, daemon and shims, of a core", "%", 100*float64(processorTime(pids)-before)/float64(idle))
	return nil
}

// lists tells how long the four lists take, as medians.
func (d *density) lists(ctx context.Context) error {
	rt := d.t.rt
	for _, list := range []struct {
		name string
		call func() error
	}{
		{"ListPodSandbox", func() error { _, err := rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{}); return err }},
		{"ListContainers", func() error { _, err := rt.ListContainers(ctx, &cri.ListContainersRequest{}); return err }},
		{"ListPodSandboxStats", func() error { _, err := rt.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{}); return err }},
		{"ListContainerStats", func() error { _, err := rt.ListContainerStats(ctx, &cri.ListContainerStatsRequest{}); return err }},
	} {
		var took []time.Duration
		for range 21 {
			began := time.Now()
			if err := list.call(); err != nil {
				return fmt.Errorf("%s: %w", list.name, err)
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		d.tell(list.name+", p50", "ms", float64(took[len(took)/2])/float64(time.Millisecond))
	}
	return nil
}

// restart tells how long the daemon takes from its start until it lists all pods. They run on meanwhile.
func (d *density) restart(ctx context.Context) error {
	if err := d.t.daemon.halt(); err != nil {
		return err
	}
	began := time.Now()
	if err := d.t.daemon.begin(); err != nil {
		return err
	}
	// Another connection, for gRPC waits before it tries a broken one again.
	if err := d.t.reconnect(); err != nil {
		return err
	}
	for {
		list, err := d.t.rt.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err == nil && len(list.GetItems()) >= len(d.pods) {
			d.tell("daemon's start until it lists them", "ms", float64(time.Since(began))/float64(time.Millisecond))
			return nil
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("after its restart the daemon lists %d of %d pods: %w", len(list.GetItems()), len(d.pods), err)
		}
		time.Sleep(time.Millisecond)
	}
}

// printFacts prints Markdown, a column for each runtime, or JSON.
func printFacts(w io.Writer, facts []fact, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(facts)
	}
	type key struct {
		pods       int
		what, unit string
	}
	var runtimes []string
	var keys []key
	values := map[key]map[string]float64{}
	for _, f := range facts {
		k := key{f.Pods, f.What, f.Unit}
		if values[k] == nil {
			values[k] = map[string]float64{}
			keys = append(keys, k)
		}
		if !slices.Contains(runtimes, f.Runtime) {
			runtimes = append(runtimes, f.Runtime)
		}
		values[k][f.Runtime] = f.Value
	}
	fmt.Fprintf(w, "| pods | what | %s |\n|---:|---|%s\n", strings.Join(runtimes, " | "), strings.Repeat("---:|", len(runtimes)))
	for _, k := range keys {
		fmt.Fprintf(w, "| %d | %s |", k.pods, strings.TrimSuffix(k.what+", "+k.unit, ", "))
		for _, r := range runtimes {
			fmt.Fprintf(w, " %s |", figures(values[k][r]))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// figures writes three figures of a number.
func figures(v float64) string {
	switch {
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
