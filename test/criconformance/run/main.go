// Command run checks an endpoint of the CRI with package criconformance: a Berth node of its own, a
// containerd of its own, or one that is there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/11f9778f/berth/test/criconformance"
)

// knownOfContainerd are the checks that containerd 2.4 does not pass, which shows that they can fail: its
// answer with 16 MiB of output is larger than its own limit of a message, and JSON spoils bytes.
var knownOfContainerd = []string{"ExecSync ends at its timeout and keeps 16 MiB of output", "the value of a variable is bytes"}

// notYet are the checks that Berth may skip, until it can do what they check.
var notYet = []string{"checkpoint and restore work, or are refused with the reason"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	berth := flag.String("berth", "bin/berth", "berth binary to start a node of")
	containerd := flag.String("containerd", "", "folders with containerd (in the first), its shim and runc, as in PATH: check containerd")
	endpoint := flag.String("endpoint", "", "socket of a runtime that is there: check that")
	image := flag.String("image", "", "image with a busybox, for -endpoint")
	flag.Parse()
	if err := run(ctx, *berth, *containerd, *endpoint, *image); err != nil {
		fmt.Fprintln(os.Stderr, "criconformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, berth, containerd, endpoint, image string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it runs containers")
	}
	dir, err := os.MkdirTemp("", "criconformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cfg := criconformance.Config{Socket: endpoint, Image: image, AlsoTagged: image, Dir: filepath.Join(dir, "logs"),
		CgroupParent: "/" + filepath.Base(dir)}
	defer removeCgroups(cfg.CgroupParent)
	if err := os.Mkdir(cfg.Dir, 0o755); err != nil {
		return err
	}
	if endpoint == "" {
		reg, err := serveImage()
		if err != nil {
			return err
		}
		defer reg.close()
		cfg.Image, cfg.AlsoTagged = reg.host+"/conformance:1", reg.host+"/conformance:latest"
		d, err := startDaemon(ctx, dir, berth, containerd, cfg.Image)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.stop()) }()
		cfg.Socket = d.socket
	}
	var failed, known, skipped, passed int
	var skips []string
	err = criconformance.Run(ctx, cfg, func(r criconformance.Result) {
		fmt.Printf("%-8s %5.1fs  %s\n", r.State, r.Took.Round(100*time.Millisecond).Seconds(), r.Name)
		switch r.State {
		case criconformance.Passed:
			passed++
			return
		case criconformance.Skipped:
			skipped++
			skips = append(skips, r.Name)
		default:
			if containerd != "" && slices.Contains(knownOfContainerd, r.Name) {
				fmt.Println("          known of containerd:", r.Err)
				known++
				return
			}
			failed++
		}
		fmt.Println("         ", r.Err)
	})
	fmt.Printf("criconformance: %d passed, %d failed, %d known to fail, %d skipped\n", passed, failed, known, skipped)
	switch {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%d checks failed", failed)
	case endpoint == "" && containerd == "":
		for _, s := range skips {
			if !slices.Contains(notYet, s) {
				return fmt.Errorf("skipped, but Berth should do it: %s", s)
			}
		}
	}
	return nil
}
