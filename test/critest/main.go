// Command critest runs critest, the conformance suite of Kubernetes' Container Runtime Interface, against
// a node of its own: it builds critest from its Go module, makes the images that it asks for, serves them
// on loopback, runs all specs, prints how each ended, and compares that with what is expected
// (expected.txt): every spec that this kernel can run passes.
//
//	go run ./test/critest                           all specs, one after the other
//	go run ./test/critest -parallel 4 -websocket    four at a time, streams over WebSocket
//	go run ./test/critest -focus PodPID -v          some, with critest's own output
//	go run ./test/critest -containerd .cache/containerd/bin    a stock containerd with Berth's shim
//
// It needs root, the Go module proxy and Debian's archive the first time; what it fetches and builds is
// kept in .cache/critest. At the end nothing is left of the node.
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
	"time"

	"github.com/11f9778f/berth/test/critest/images"
)

type options struct {
	berth, cache, focus string
	containerd          string
	parallel, times     int
	websocket, verbose  bool
	noPools             bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.berth, "berth", "bin/berth", "berth binary to start a node of")
	flag.StringVar(&o.containerd, "containerd", "", "folder of a containerd to judge instead, with Berth's shim below it")
	flag.StringVar(&o.cache, "cache", ".cache/critest", "folder for what is fetched and built")
	flag.StringVar(&o.focus, "focus", "", "only the specs that match this regular expression")
	flag.IntVar(&o.parallel, "parallel", 1, "specs at once")
	flag.IntVar(&o.times, "times", 1, "run everything so often")
	flag.BoolVar(&o.websocket, "websocket", false, "exec, attach and port-forward over WebSocket instead of SPDY")
	flag.BoolVar(&o.noPools, "no-pools", false, "with a node that makes nothing ahead: no spare shim, namespaces or writable layers")
	flag.BoolVar(&o.verbose, "v", false, "show critest's own output")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it runs containers")
	}
	var err error
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	want, err := readExpectation(o.containerd != "")
	if err != nil {
		return err
	}
	s, err := prepare(ctx, o)
	if err != nil {
		return err
	}
	defer s.close()
	for i := range o.times {
		if o.times > 1 {
			fmt.Printf("--- run %d of %d\n", i+1, o.times)
		}
		if err := s.once(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// suite is critest, ready to run.
type suite struct {
	o        options
	dir      string // of this run
	critest  string
	internet *internet
}

func prepare(ctx context.Context, o options) (_ *suite, err error) {
	b := builder{cache: o.cache}
	toolbox, err := b.toolbox(ctx)
	if err != nil {
		return nil, err
	}
	set, err := images.Make(ctx, filepath.Join(o.cache, "debs"), toolbox)
	if err != nil {
		return nil, err
	}
	s := &suite{o: o}
	if s.critest, err = b.critest(ctx, set.Digest.String()); err != nil {
		return nil, err
	}
	if o.parallel > 1 {
		if err := b.ginkgo(ctx); err != nil {
			return nil, err
		}
	}
	if s.dir, err = os.MkdirTemp("/tmp", "ct-"); err != nil { // short, for sockets' paths are limited
		return nil, err
	}
	if s.internet, err = openInternet(s.dir); err == nil {
		err = set.Push(ctx, s.internet.addr)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *suite) close() {
	if s.internet != nil {
		s.internet.close()
	}
	os.RemoveAll(s.dir)
}

// start starts what is to be judged.
func (s *suite) start(ctx context.Context) (runtime, error) {
	if s.o.containerd != "" {
		return startContainerd(ctx, s.o.containerd, s.o.berth, filepath.Join(s.dir, "c"), s.internet.environment())
	}
	return startNode(ctx, s.o, filepath.Join(s.dir, "node"), s.internet.environment())
}

// once runs the specs against a fresh node.
func (s *suite) once(ctx context.Context, want expectation) (err error) {
	n, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if serr := n.stop(err != nil); err == nil {
			err = serr
		}
	}()
	began := time.Now()
	specs, err := s.runSpecs(ctx, n.endpoint())
	if err != nil {
		return err
	}
	return judge(os.Stdout, specs, want, s.o.focus != "", time.Since(began))
}
