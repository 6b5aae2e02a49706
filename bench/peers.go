package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/11f9778f/berth/internal/engine/pause"
	"github.com/11f9778f/berth/test/stock"
)

// containerd is a stock containerd of the benchmark's own, with its runc shim over runc and over crun. Both are measured
// with the same daemon.
type containerd struct {
	dir, bin, bridge string
	cmd              *exec.Cmd
	log              *os.File
	handlers         []string // engines that are here
	version          string
}

const pauseName = "berth.local/pause:latest"

// startContainerd starts the containerd whose programs are in bin, with the CNI plugins of stock.Plugins.
func startContainerd(ctx context.Context, bin string, engines map[string]string) (_ *containerd, err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bc-")
	if err != nil {
		return nil, err
	}
	c := &containerd{dir: dir, bin: bin, bridge: fmt.Sprintf("bc%d", os.Getpid())}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if err := mountRun(filepath.Join(dir, "run")); err != nil {
		return nil, err
	}
	own := stock.Containerd{
		Dir: dir, Plugins: stock.Plugins(bin), Bridge: c.bridge, Subnet: "10.214.0.0/16", Pause: pauseName,
	}
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(engines[name]); err == nil {
			own.Handlers = append(own.Handlers, stock.Handler{Name: name, Type: "io.containerd.runc.v2", Binary: path})
			c.handlers = append(c.handlers, name)
		}
	}
	if len(c.handlers) == 0 {
		return nil, fmt.Errorf("neither %s nor %s is here", engines["runc"], engines["crun"])
	}
	if _, err := own.Write(); err != nil {
		return nil, err
	}
	if c.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	return c, c.importImages(ctx)
}

// begin implements daemon.
func (c *containerd) begin() error {
	v, err := exec.Command(filepath.Join(c.bin, "containerd"), "--version").Output()
	if err != nil {
		return err
	}
	if f := strings.Fields(string(v)); len(f) > 2 {
		c.version = f[2]
	}
	// Crun takes a hybrid of cgroup v1 and v2 for v2 where it sees the v2 side.
	c.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`umount /sys/fs/cgroup/unified 2>/dev/null; exec "$0" "$@"`, filepath.Join(c.bin, "containerd"), "-c", filepath.Join(c.dir, "config.toml"))
	c.cmd.Env = append(os.Environ(), "PATH="+c.bin+":"+os.Getenv("PATH"))
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	if err := stock.Await(filepath.Join(c.dir, "c.sock"), nil); err != nil {
		b, _ := os.ReadFile(c.log.Name())
		return fmt.Errorf("containerd does not answer: %w\n%s", err, b)
	}
	return nil
}

func (c *containerd) pid() int       { return c.cmd.Process.Pid }
func (c *containerd) folder() string { return c.dir }

// halt implements daemon.
func (c *containerd) halt() error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	c.cmd.Wait()                              // it ends with an error at every SIGTERM
	os.Remove(filepath.Join(c.dir, "c.sock")) // if it has not done so itself
	return nil
}

func (c *containerd) importImages(ctx context.Context) error {
	program, err := pause.Program()
	if err != nil {
		return err
	}
	archives := map[string]func(string) error{
		"bench.tar": func(path string) error { return buildImage(ctx, path) },
		"pause.tar": func(path string) error { return writeImage(path, pauseName, "pause", program) },
	}
	for name, build := range archives {
		path := filepath.Join(c.dir, name)
		if err := build(path); err != nil {
			return err
		}
		ctr := exec.CommandContext(ctx, filepath.Join(c.bin, "ctr"), "-a", filepath.Join(c.dir, "c.sock"), "-n", "k8s.io", "images", "import", "--local", path)
		if out, err := ctr.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

func (c *containerd) endpoint() string { return "unix://" + filepath.Join(c.dir, "c.sock") }

// stop ends containerd and removes what it and the plugins leave.
func (c *containerd) stop() {
	if c.cmd != nil && c.cmd.Process != nil {
		c.cmd.Process.Signal(syscall.SIGTERM)
		c.cmd.Wait()
	}
	if c.log != nil {
		c.log.Close()
	}
	exec.Command("ip", "link", "del", c.bridge).Run()
	syscall.Unmount(filepath.Join(c.dir, "run"), syscall.MNT_DETACH)
	os.RemoveAll(c.dir)
}

// tarOf is a layer with one program in it.
func tarOf(name string, body []byte) ([]byte, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(body))})
	_, werr := tw.Write(body)
	return buf.Bytes(), errors.Join(err, werr, tw.Close())
}
