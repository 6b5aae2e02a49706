// Command ocivalidate runs the validation programs of opencontainers/runtime-tools against berth-oci, and
// checks that nothing passes with runc that fails with Berth.
//
//	go run ./test/ocivalidate              Berth alone, against the table that is kept
//	go run ./test/ocivalidate -compare     Berth and runc side by side; writes the table anew
//	go run ./test/ocivalidate -only hooks  programs whose names hold the word, with all that they say
//
// The programs and runc are built from their Go modules, once, into .cache/oci; Debian's runc is fetched and
// not installed. Each run has a state directory and bundles of its own; at the end nothing is left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

type options struct {
	berth, cache, table, only string
	compare, build            bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.berth, "berth", "bin/berth-oci", "the runtime to judge")
	flag.StringVar(&o.cache, "cache", ".cache/oci", "folder for what is built")
	flag.StringVar(&o.table, "table", "docs/conformance-oci.md", "the table that is kept")
	flag.StringVar(&o.only, "only", "", "only programs whose names hold this; shows their output and keeps no table")
	flag.BoolVar(&o.compare, "compare", false, "run runc too, and write the table")
	flag.BoolVar(&o.build, "build", false, "only build the runtimes that -compare judges")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "ocivalidate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it runs containers")
	}
	for _, p := range []*string{&o.berth, &o.cache} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	b := builder{cache: o.cache}
	if o.build {
		b.peers(ctx)
		return nil
	}
	programs, err := b.programs(ctx)
	if err != nil {
		return err
	}
	runtimes := []runtime{{name: "Berth", path: o.berth}}
	if o.compare {
		runtimes = append(runtimes, b.peers(ctx)...)
	}
	results := map[string]map[string]result{} // by runtime and program
	for _, r := range runtimes {
		if results[r.name], err = b.judge(ctx, r, programs, o.only); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	if o.only != "" {
		return show(results)
	}
	if o.compare {
		if err := writeTable(o.table, runtimes, results); err != nil {
			return err
		}
		return compare(runtimes, results)
	}
	return checkTable(o.table, results["Berth"])
}

// show prints all that was said.
func show(results map[string]map[string]result) error {
	for name, programs := range results {
		for program, r := range programs {
			fmt.Printf("== %s: %s: %s\n%s%s", name, program, r, r.output, r.errors)
		}
	}
	return nil
}
