// Command bench measures a CRI v1 runtime from outside, over gRPC: a pod's start until its process
// has executed, ExecSync, and stop + remove, at several pods at once, with the host's network and
// with the runtime's own.
//
//	go run ./bench -berth bin/berth               a node of its own, in a temporary folder
//	go run ./bench -endpoint unix:///run/x.sock -image NAME     any other runtime, image already there
//
// A start is RunPodSandbox + CreateContainer + StartContainer, which returns when execve has happened.
// Times are wall-clock milliseconds that the client saw. With n at once, each of the n is one sample.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type options struct {
	berth, endpoint, image string
	atOnce                 []int
	samples                int
	networks               []string
	jsonOut                bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := flags()
	if err == nil {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func flags() (options, error) {
	var o options
	var atOnce, networks string
	flag.StringVar(&o.berth, "berth", "bin/berth", "berth binary to start a node of")
	flag.StringVar(&o.endpoint, "endpoint", "", "measure the runtime on this CRI socket instead")
	flag.StringVar(&o.image, "image", "", "image for -endpoint; it must have /block from bench/block")
	flag.StringVar(&atOnce, "at-once", "1,10,50", "pods at once")
	flag.IntVar(&o.samples, "samples", 100, "samples for each row, about")
	flag.StringVar(&networks, "network", "host,bridge", "host, bridge or both")
	flag.BoolVar(&o.jsonOut, "json", false, "print JSON, times in milliseconds")
	flag.Parse()
	o.networks = strings.Split(networks, ",")
	for _, s := range strings.Split(atOnce, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-at-once: %q is no number of pods", s)
		}
		o.atOnce = append(o.atOnce, n)
	}
	return o, nil
}

// row is one line of the result.
type row struct {
	Network string  `json:"network"`
	AtOnce  int     `json:"atOnce"`
	What    string  `json:"what"`
	Samples int     `json:"samples"`
	P50     float64 `json:"p50"`
	P90     float64 `json:"p90"`
	P99     float64 `json:"p99"`
}

func run(ctx context.Context, o options) error {
	if o.endpoint == "" {
		n, err := startNode(ctx, o.berth)
		if err != nil {
			return err
		}
		defer n.stop()
		o.endpoint, o.image = n.endpoint(), imageName
	}
	r, err := connect(o.endpoint, o.image)
	if err != nil {
		return err
	}
	defer r.close()
	var rows []row
	for _, network := range o.networks {
		if err := r.round(ctx, network, 1, newSamples()); err != nil { // the first start pays for what is made once
			return err
		}
		for _, n := range o.atOnce {
			s := newSamples()
			for range max(3, o.samples/n) {
				if err := r.round(ctx, network, n, s); err != nil {
					return err
				}
				time.Sleep(100 * time.Millisecond) // an idle node, as a user has it
			}
			rows = append(rows, s.rows(network, n)...)
		}
	}
	if o.jsonOut {
		return json.NewEncoder(os.Stdout).Encode(rows)
	}
	printTable(rows)
	return nil
}

func printTable(rows []row) {
	fmt.Printf("%-8s %7s  %-16s %8s %9s %9s %9s   (ms)\n", "network", "at once", "what", "samples", "p50", "p90", "p99")
	for _, r := range rows {
		fmt.Printf("%-8s %7d  %-16s %8d %9.2f %9.2f %9.2f\n", r.Network, r.AtOnce, r.What, r.Samples, r.P50, r.P90, r.P99)
	}
}
