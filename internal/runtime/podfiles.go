package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/network/dnsconf"
)

// resolvConf is the content of a pod's resolv.conf: d, or a copy of the node's file.
func (d *DNS) resolvConf(node string) ([]byte, error) {
	if d == nil {
		b, err := os.ReadFile(node)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return b, err
	}
	text, err := dnsconf.ResolvConf(dnsconf.DNS(*d))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return []byte(text), nil
}

// nameItself gives a pod that has got its addresses their line in its hosts file.
func (sb *sandbox) nameItself() error {
	st := sb.get()
	if len(st.IPs) == 0 {
		return nil
	}
	text, err := dnsconf.Hosts(st.IPs, st.Spec.Hostname)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return os.WriteFile(filepath.Join(sb.r.store.podDir(sb.id), "hosts"), []byte(text), 0o644)
}

// PodFiles returns the resolv.conf and the hosts file of a pod with a network of its own.
func (r *Runtime) PodFiles(id string) (resolvConf, hosts string, err error) {
	for name, to := range map[string]*string{"resolv.conf": &resolvConf, "hosts": &hosts} {
		b, err := os.ReadFile(filepath.Join(r.store.podDir(id), name))
		if err != nil {
			return "", "", fmt.Errorf("read files of sandbox %s: %w", short(id), err)
		}
		*to = string(b)
	}
	return resolvConf, hosts, nil
}

// splitSysctls tells the sysctls of the network namespace from those of the IPC and UTS namespaces.
func splitSysctls(all map[string]string) (network, other map[string]string) {
	network, other = map[string]string{}, map[string]string{}
	for k, v := range all {
		if strings.HasPrefix(strings.ReplaceAll(k, "/", "."), "net.") {
			network[k] = v
		} else {
			other[k] = v
		}
	}
	return network, other
}

// annotations are those of the sandbox's spec.
func (sb *sandbox) annotations() map[string]string {
	st := sb.get()
	a := sandboxAnnotations(st)
	if r := st.Spec.Resources; r != nil { // by these a shim with machines of its own knows how large to make one
		a["io.kubernetes.cri.sandbox-cpu-period"] = strconv.FormatInt(r.CPUPeriod, 10)
		a["io.kubernetes.cri.sandbox-cpu-quota"] = strconv.FormatInt(r.CPUQuota, 10)
		a["io.kubernetes.cri.sandbox-cpu-shares"] = strconv.FormatInt(r.CPUShares, 10)
		a["io.kubernetes.cri.sandbox-memory"] = strconv.FormatInt(r.MemoryLimit, 10)
	}
	passOn(a, st.Spec.Annotations, sb.r.handler(st.Spec.Handler).PodAnnotations)
	return a
}

// sandboxAnnotations are those by which every shim knows a sandbox.
func sandboxAnnotations(s SandboxStatus) map[string]string {
	return map[string]string{
		"io.kubernetes.cri.container-type":    "sandbox",
		"io.kubernetes.cri.sandbox-id":        s.ID,
		"io.kubernetes.cri.sandbox-name":      s.Spec.Name,
		"io.kubernetes.cri.sandbox-namespace": s.Spec.Namespace,
		"io.kubernetes.cri.sandbox-uid":       s.Spec.UID,
	}
}
