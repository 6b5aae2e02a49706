package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
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
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return []byte(b.String()), nil
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
