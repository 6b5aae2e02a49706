// Command bench measures a CRI v1 runtime from outside, over gRPC: a pod's start until its process
// has executed, ExecSync, and stop + remove, at several pods at once, with the host's network and
// with the runtime's own.
//
//	go run ./bench -berth bin/berth               a node of its own, in a temporary folder
//	go run ./bench -containerd .cache/containerd/bin   a stock containerd beside it, interleaved round by round
//	go run ./bench -no-pools                      a second node beside the first, with nothing made ahead
//	go run ./bench -density 50,200                memory, lists, restart and pods a second of full nodes
//	go run ./bench -pull 4                        pull and removal of an image of 600 MB, beside plain tools
//	go run ./bench -endpoint unix:///run/x.sock -image NAME     any other runtime, image already there
//
// A start is RunPodSandbox + CreateContainer + StartContainer, which returns when execve has happened.
// Times are wall-clock milliseconds that the client saw. With n at once, each of the n is one sample.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/11f9778f/berth/test/stock"
)

type options struct {
	berth, endpoint, image string
	atOnce, density        []int
	samples                int
	networks, packed       []string
	jsonOut                bool
	svg                    string
	pull                   int
	containerd, runc, crun string
	noPools                bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := flags()
	if err == nil && o.pull > 0 {
		err = pullBench(ctx, o)
	} else if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags() (options, error) {
	var o options
	var atOnce, networks, density, packed string
	flag.StringVar(&o.berth, "berth", "bin/berth", "berth binary to start a node of")
	flag.StringVar(&o.endpoint, "endpoint", "", "measure the runtime on this CRI socket instead")
	flag.StringVar(&o.image, "image", "", "image for -endpoint; it must have /block from bench/block")
	flag.StringVar(&o.containerd, "containerd", "", "folder of a stock containerd's programs, to be measured too")
	flag.StringVar(&o.runc, "runc", "runc", "engine below that containerd")
	flag.StringVar(&o.crun, "crun", "crun", "another engine below it")
	flag.BoolVar(&o.noPools, "no-pools", false, "measure a second Berth beside the first, with nothing made ahead: no spare shim, namespaces or writable layers")
	flag.StringVar(&atOnce, "at-once", "1,10,50", "pods at once")
	flag.IntVar(&o.samples, "samples", 100, "samples for each row, about")
	flag.StringVar(&networks, "network", "host,bridge", "host, bridge or both")
	flag.StringVar(&density, "density", "", "measure full nodes instead: numbers of pods, such as 50,200, with the last of the networks")
	flag.StringVar(&o.svg, "svg", "", "draw the medians into this file too")
	flag.IntVar(&o.pull, "pull", 0, "measure so many pulls of a large image instead")
	flag.StringVar(&packed, "packed", "gzip,zstd", "how the layers of -pull are packed")
	flag.BoolVar(&o.jsonOut, "json", false, "print JSON, times in milliseconds")
	flag.Parse()
	o.networks, o.packed = strings.Split(networks, ","), strings.Split(packed, ",")
	var err error
	if o.atOnce, err = numbers("-at-once", atOnce); err != nil || density == "" {
		return o, err
	}
	o.density, err = numbers("-density", density)
	return o, err
}

func numbers(flag, list string) (out []int, err error) {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%s: %q is no number of pods", flag, s)
		}
		out = append(out, n)
	}
	return out, nil
}

// row is one line of the result.
type row struct {
	Runtime string  `json:"runtime"`
	Network string  `json:"network"`
	AtOnce  int     `json:"atOnce"`
	What    string  `json:"what"`
	Samples int     `json:"samples"`
	P50     float64 `json:"p50"`
	P90     float64 `json:"p90"`
	P99     float64 `json:"p99"`
}

func run(ctx context.Context, o options) error {
	targets, stop, err := o.targets(ctx)
	defer stop()
	if err != nil {
		return err
	}
	if len(o.density) > 0 {
		facts, err := measureDensity(ctx, targets, o.networks[len(o.networks)-1], o.density)
		if err != nil {
			return err
		}
		return printFacts(os.Stdout, facts, o.jsonOut)
	}
	var rows []row
	for _, network := range o.networks {
		if targets = warm(ctx, targets, network); len(targets) == 0 {
			return errors.New("nothing is left to be measured")
		}
		for _, n := range o.atOnce {
			more, err := measure(ctx, targets, network, n, max(3, o.samples/n))
			if err != nil {
				return err
			}
			rows = append(rows, more...)
		}
	}
	if o.svg != "" {
		var picture bytes.Buffer
		if err := writeSVG(&picture, rows); err != nil {
			return err
		}
		if err := os.WriteFile(o.svg, picture.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if o.jsonOut {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	printTable(rows)
	return nil
}

// warm lets every target pay for what is made once, and leaves out those that can't start a pod here.
func warm(ctx context.Context, targets []*target, network string) []*target {
	return slices.DeleteFunc(slices.Clone(targets), func(t *target) bool {
		err := t.round(ctx, network, 1, newSamples())
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", t.name, err)
		}
		return err != nil
	})
}

// restAPod is how long the kernel may take for what is left of a pod: cgroups and namespaces die after the runtime has answered.
const restAPod = 40 * time.Millisecond

// measure does so many rounds with each target, one target after the other, so that the machine's moods meet all.
func measure(ctx context.Context, targets []*target, network string, n, rounds int) ([]row, error) {
	all := make([]*samples, len(targets))
	for i := range targets {
		all[i] = newSamples()
	}
	for range rounds {
		for i, t := range targets {
			if err := t.round(ctx, network, n, all[i]); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			// An idle node, as a user has it, on which the kernel has let go of what the round before had.
			time.Sleep(max(100*time.Millisecond, time.Duration(n)*restAPod))
		}
	}
	var rows []row
	for i, t := range targets {
		rows = append(rows, all[i].rows(t.name, network, n)...)
	}
	return rows, nil
}

// targets starts what is to be measured.
func (o options) targets(ctx context.Context) (targets []*target, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range slices.Backward(stops) {
			f()
		}
	}
	add := func(name, endpoint, handler, image string, d daemon) error {
		t, err := connect(name, endpoint, handler, image)
		if err == nil {
			t.daemon = d
			targets = append(targets, t)
			stops = append(stops, t.close)
		}
		return err
	}
	if o.endpoint != "" {
		return targets, stop, add(o.endpoint, o.endpoint, "", o.image, nil)
	}
	nodes := []struct{ name, config string }{{"berth", ""}}
	if o.noPools {
		nodes = append(nodes, struct{ name, config string }{"berth-no-pools", stock.NoPools})
	}
	for _, k := range nodes {
		n, err := startNode(ctx, o.berth, k.config)
		if err != nil {
			return nil, stop, err
		}
		stops = append(stops, n.stop)
		if err := add(k.name, n.endpoint(), "", imageName, n); err != nil {
			return targets, stop, err
		}
	}
	if f, err := newFloor(ctx); err == nil {
		targets = append(targets, &target{name: floorName, floor: f})
		stops = append(stops, f.stop)
	} else {
		fmt.Fprintf(os.Stderr, "bench: %s is left out: %v\n", floorName, err)
	}
	if o.containerd == "" {
		return targets, stop, nil
	}
	c, err := startContainerd(ctx, o.containerd, map[string]string{"runc": o.runc, "crun": o.crun})
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, c.stop)
	for _, h := range c.handlers {
		if err := add("containerd+"+h, c.endpoint(), h, imageName, c); err != nil {
			return nil, stop, err
		}
	}
	return targets, stop, nil
}

// printTable prints Markdown. The last column is how many times longer it took than with the first runtime.
func printTable(rows []row) {
	type key struct {
		network, what string
		n             int
	}
	first := map[key]row{}
	fmt.Printf("| %-8s | %7s | %-16s | %-16s | %7s | %8s | %8s | %8s | %6s |\n", "network", "at once", "what (ms)", "runtime", "samples", "p50", "p90", "p99", "× p50")
	fmt.Println("|---|---|---|---|---|---|---|---|---|")
	for _, r := range rows {
		k := key{r.Network, r.What, r.AtOnce}
		if _, ok := first[k]; !ok {
			first[k] = r
		}
		fmt.Printf("| %-8s | %7d | %-16s | %-16s | %7d | %8.2f | %8.2f | %8.2f | %6.1f |\n",
			r.Network, r.AtOnce, r.What, r.Runtime, r.Samples, r.P50, r.P90, r.P99, r.P50/first[k].P50)
	}
}
