// Package stock configures a stock containerd with a CRI plugin, for programs that measure or judge one beside Berth, and a
// Berth that is as bare as one. It starts nothing.
package stock

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// NoPools is the configuration of a Berth that makes nothing ahead of its use.
const NoPools = "network.spares = 0\nshims.spare = false\nimages.blanks = 0\n"

// Containerd is a containerd of somebody's own, all of it in one folder.
type Containerd struct {
	// Dir gets config.toml, net.d, and the root, the state and the socket.
	Dir string
	// Plugins is the folder of the CNI plugins; Bridge and Subnet are what the bridge plugin makes.
	Plugins, Bridge, Subnet string
	// Pause is the image of sandboxes.
	Pause string
	// Handlers are the runtimes; the first one is the default.
	Handlers []Handler
}

// Handler is a runtime of the CRI plugin.
type Handler struct {
	Name string
	Type string // of the shim: io.containerd.runc.v2
	// Binary, if any, is the engine below a runc shim.
	Binary string
}

const config = `version = 3
root = "%[1]s/root"
state = "%[1]s/run"
[grpc]
  address = "%[2]s"
[ttrpc]
  address = "%[2]s.ttrpc"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "%[3]s"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["%[4]s"]
  conf_dir = "%[1]s/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "%[5]s"
`

const handler = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s]
  runtime_type = "%[2]s"
`

const binary = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s.options]
  BinaryName = "%[2]s"
`

const network = `{"cniVersion": "1.0.0", "name": "%[1]s", "plugins": [
  {"type": "bridge", "bridge": "%[1]s", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables", "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "%[2]s/run/ipam", "ranges": [[{"subnet": "%[3]s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}
`

// Plugins is where make cni puts the CNI plugins, for a containerd whose programs make containerd put into bin.
func Plugins(bin string) string { return filepath.Join(bin, "../../cni") }

// Socket is where it listens.
func (c *Containerd) Socket() string { return filepath.Join(c.Dir, "c.sock") }

// Write writes the configuration and returns its path.
func (c *Containerd) Write() (path string, err error) {
	if len(c.Handlers) == 0 {
		return "", errors.New("containerd: no handler")
	}
	var b strings.Builder
	fmt.Fprintf(&b, config, c.Dir, c.Socket(), c.Pause, c.Plugins, c.Handlers[0].Name)
	for _, h := range c.Handlers {
		fmt.Fprintf(&b, handler, h.Name, h.Type)
		if h.Binary != "" {
			fmt.Fprintf(&b, binary, h.Name, h.Binary)
		}
	}
	path = filepath.Join(c.Dir, "config.toml")
	return path, errors.Join(
		os.MkdirAll(filepath.Join(c.Dir, "net.d"), 0o755),
		os.WriteFile(path, []byte(b.String()), 0o644),
		os.WriteFile(filepath.Join(c.Dir, "net.d/10.conflist"), fmt.Appendf(nil, network, c.Bridge, c.Dir, c.Subnet), 0o644),
	)
}

// Await waits until somebody listens on a unix socket, or until stop.
func Await(socket string, stop <-chan struct{}) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-stop:
			return err
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}
