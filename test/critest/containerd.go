package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/11f9778f/berth/test/stock"
)

// runtime is what critest judges.
type runtime interface {
	endpoint() string
	// stop ends it and tells what it left. If tell is set, the end of its log is shown.
	stop(tell bool) error
}

// containerd is a stock containerd of this program's own, with Berth's shim as its default runtime.
type containerd struct {
	dir, bridge string
	cmd         *exec.Cmd
	log         *os.File
	ended       chan error
	hadTable    bool
}

// startContainerd starts the containerd in bin with the CNI plugins of stock.Plugins and our shim, which is beside berth.
func startContainerd(ctx context.Context, bin, berth, dir string, env []string) (_ *containerd, err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if berth, err = filepath.Abs(berth); err != nil {
		return nil, err
	}
	c := &containerd{dir: dir, bridge: fmt.Sprintf("ctr%d", os.Getpid()), ended: make(chan error, 1), hadTable: hasTable()}
	own := stock.Containerd{
		Dir: dir, Plugins: stock.Plugins(bin), Bridge: c.bridge, Subnet: "10.213.0.0/16", Pause: "registry.k8s.io/pause:3.10",
		Handlers: []stock.Handler{{Name: "berth", Type: "io.containerd.berth.v1"}},
	}
	config, err := own.Write()
	if err != nil {
		return nil, err
	}
	if c.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	c.cmd = exec.Command(filepath.Join(bin, "containerd"), "-c", config, "-l", "debug")
	c.cmd.Env = append(append(os.Environ(), env...), "PATH="+filepath.Dir(berth)+":"+os.Getenv("PATH"), "BERTH_SHIM_STATE="+filepath.Join(dir, "s"))
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.ended <- c.cmd.Wait() }()
	if err := stock.Await(own.Socket(), ctx.Done()); err != nil {
		return nil, errors.Join(errors.New("containerd does not answer"), c.stop(true))
	}
	return c, nil
}

func (c *containerd) endpoint() string { return "unix://" + filepath.Join(c.dir, "c.sock") }

func (c *containerd) stop(tell bool) error {
	c.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case <-c.ended: // it ends with an error at every SIGTERM
	case <-time.After(time.Minute):
		c.cmd.Process.Kill()
		err = errors.Join(errors.New("containerd did not end on SIGTERM"), <-c.ended)
	}
	c.log.Close()
	if groups, _ := filepath.Glob(filepath.Join(c.dir, "s", "*")); len(groups) > 0 {
		err = errors.Join(err, fmt.Errorf("shims left %s", groups))
	}
	if link, lerr := netlink.LinkByName(c.bridge); lerr == nil {
		err = errors.Join(err, netlink.LinkDel(link))
	}
	if !c.hadTable && hasTable() {
		err = errors.Join(err, exec.Command("nft", "delete", "table", "inet", hostPortTable).Run())
	}
	if err != nil || tell {
		b, _ := os.ReadFile(c.log.Name())
		lines := strings.Split(string(b), "\n")
		fmt.Printf("--- the end of containerd's log\n%s\n", strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
	return err
}

// hostPortTable is what the portmap plugin makes and leaves.
const hostPortTable = "cni_hostport"

func hasTable() bool { return exec.Command("nft", "list", "table", "inet", hostPortTable).Run() == nil }
