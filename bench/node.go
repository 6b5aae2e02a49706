package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/11f9778f/berth/test/stock"
)

// imageName is what the benchmark's own image is called.
const imageName = "berth.local/bench:latest"

// node is a berth node of the benchmark's own.
type node struct {
	dir   string
	berth string
	cmd   *exec.Cmd
	log   *os.File
}

// startNode starts a node in a temporary folder, with this configuration, and gives it the image.
func startNode(ctx context.Context, berth, config string) (_ *node, err error) {
	abs, err := filepath.Abs(berth)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bb-")
	if err != nil {
		return nil, err
	}
	n := &node{dir: dir, berth: abs}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	if n.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := mountRun(filepath.Join(dir, "run")); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := n.begin(); err != nil {
		return nil, err
	}
	archive := filepath.Join(dir, "image.tar")
	if err := buildImage(ctx, archive); err != nil {
		return nil, err
	}
	if out, err := n.command(ctx, "image", "import", archive).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("import the image: %w\n%s", err, out)
	}
	return n, nil
}

// begin implements daemon.
func (n *node) begin() error {
	n.cmd = n.command(context.Background(), "node")
	n.cmd.Stderr = n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the benchmark, which stops the node itself
	if err := n.cmd.Start(); err != nil {
		return err
	}
	if err := stock.Await(filepath.Join(n.dir, "run", "cri.sock"), nil); err != nil {
		b, _ := os.ReadFile(n.log.Name())
		return fmt.Errorf("the node does not answer: %w\n%s", err, b)
	}
	return nil
}

func (n *node) pid() int       { return n.cmd.Process.Pid }
func (n *node) folder() string { return n.dir }

// halt implements daemon.
func (n *node) halt() error {
	n.cmd.Process.Signal(syscall.SIGTERM)
	return n.cmd.Wait()
}

func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, n.berth, append([]string{"--config", filepath.Join(n.dir, "config.toml"), "--root", filepath.Join(n.dir, "root"), "--run", filepath.Join(n.dir, "run")}, args...)...)
}

func (n *node) endpoint() string { return "unix://" + filepath.Join(n.dir, "run", "cri.sock") }

// stop ends the node and removes its folder.
func (n *node) stop() {
	if n.cmd != nil && n.cmd.Process != nil {
		n.cmd.Process.Signal(syscall.SIGTERM)
		n.cmd.Wait()
	}
	if n.log != nil {
		n.log.Close()
	}
	syscall.Unmount(filepath.Join(n.dir, "run"), syscall.MNT_DETACH)
	os.RemoveAll(n.dir)
}

// mountRun makes the run directory what /run is on a node: a tmpfs.
func mountRun(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return nil
}

// buildBlock compiles what the containers run: in C if there is a compiler, for Go takes a millisecond to start.
func buildBlock(ctx context.Context, bin string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./bench/block")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cc, err := exec.LookPath("gcc"); err == nil {
		build = exec.CommandContext(ctx, cc, "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-Os", "-s", "-o", bin, "bench/cblock/block.c")
	}
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build bench/block: %w\n%s", err, out)
	}
	return nil
}

// buildImage writes an archive of an image with the containers' program alone in it.
func buildImage(ctx context.Context, archive string) error {
	bin := archive + ".block"
	if err := buildBlock(ctx, bin); err != nil {
		return err
	}
	body, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	return writeImage(archive, imageName, "block", body)
}

func writeImage(archive, ref, program string, body []byte) error {
	b, err := tarOf(program, body)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config.Cmd = []string{"/" + program}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(archive, tag, img)
}
