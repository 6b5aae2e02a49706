package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
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

const containerdConfig = `version = 3
root = "%[1]s/root"
state = "%[1]s/state"
[grpc]
  address = "%[1]s/c.sock"
[ttrpc]
  address = "%[1]s/c.sock.ttrpc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "berth"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.berth]
  runtime_type = "io.containerd.berth.v1"
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["%[2]s"]
  conf_dir = "%[1]s/net.d"
`

const cniConfig = `{"cniVersion": "1.0.0", "name": "%[1]s", "plugins": [
  {"type": "bridge", "bridge": "%[1]s", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "%[2]s/ipam", "ranges": [[{"subnet": "10.213.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}
`

// startContainerd starts the containerd in bin (its folder also has the CNI plugins) with our shim, which is beside berth.
func startContainerd(ctx context.Context, bin, berth, dir string, env []string) (_ *containerd, err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if berth, err = filepath.Abs(berth); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "net.d"), 0o755); err != nil {
		return nil, err
	}
	c := &containerd{dir: dir, bridge: fmt.Sprintf("ctr%d", os.Getpid()), ended: make(chan error, 1), hadTable: hasTable()}
	for name, text := range map[string]string{
		"config.toml":       fmt.Sprintf(containerdConfig, dir, filepath.Join(filepath.Dir(bin), "cni")),
		"net.d/10.conflist": fmt.Sprintf(cniConfig, c.bridge, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if c.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	c.cmd = exec.Command(filepath.Join(bin, "containerd"), "-c", filepath.Join(dir, "config.toml"), "-l", "debug")
	c.cmd.Env = append(append(os.Environ(), env...), "PATH="+filepath.Dir(berth)+":"+os.Getenv("PATH"), "BERTH_SHIM_STATE="+filepath.Join(dir, "s"))
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { c.ended <- c.cmd.Wait() }()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("unix", filepath.Join(dir, "c.sock")); err == nil {
			conn.Close()
			return c, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(errors.New("containerd does not answer"), c.stop(true))
		}
	}
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
