package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/11f9778f/berth/internal/network"
	"github.com/11f9778f/berth/internal/runtime"
)

// PodNetwork is what a pod has of the network.
type PodNetwork struct {
	Pod string `json:"pod"` // "default/hello"; empty where the sandbox is of no pod any more
	network.Attachment
}

// PodNetworkCheck is what was found wrong with a pod's network.
type PodNetworkCheck struct {
	Pod     string `json:"pod"`
	Sandbox string `json:"sandbox"`
	// HostNetwork is set for a pod that has no network of its own to be checked.
	HostNetwork bool              `json:"hostNetwork,omitempty"`
	Problems    []network.Problem `json:"problems"`
}

func (n *Node) serveNetwork(w http.ResponseWriter, r *http.Request) {
	out, err := n.podNetworks(r.Context())
	answer(w, out, err)
}

func (n *Node) podNetworks(ctx context.Context) ([]PodNetwork, error) {
	all, err := n.network.List(ctx)
	if err != nil {
		return nil, err
	}
	out := []PodNetwork{}
	for _, a := range all {
		p := PodNetwork{Attachment: a}
		if sb, err := n.runtime.Sandbox(a.SandboxID); err == nil {
			p.Pod = sb.Spec.Namespace + "/" + sb.Spec.Name
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b PodNetwork) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.SandboxID, b.SandboxID))
	})
	return out, nil
}

// serveNetworkCheck checks one pod, or all of them where none is named.
func (n *Node) serveNetworkCheck(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.URL.Query().Get("namespace"), r.URL.Query().Get("pod")
	var found []runtime.SandboxStatus
	for _, sb := range n.runtime.Sandboxes() {
		if sb.State == runtime.SandboxReady && (pod == "" || sb.Spec.Namespace == namespace && sb.Spec.Name == pod) {
			found = append(found, sb)
		}
	}
	if len(found) == 0 && pod != "" {
		refuse(w, http.StatusNotFound, errors.New("no pod "+namespace+"/"+pod+" is running on this node"))
		return
	}
	out, err := n.checkNetworks(r.Context(), found)
	answer(w, out, err)
}

// checkFiles looks at what a pod's programs read before they send anything.
func (n *Node) checkFiles(sb runtime.SandboxStatus) []network.Problem {
	resolvConf, hosts, err := n.runtime.PodFiles(sb.ID)
	if err != nil {
		return []network.Problem{{What: err.Error(), Remedy: "start the pod anew"}}
	}
	ips := sb.IPs
	if sb.Spec.Hostname == "" {
		ips = nil // it has no name that they could be found by
	}
	return network.CheckFiles(resolvConf, hosts, ips)
}

func (n *Node) checkNetworks(ctx context.Context, sandboxes []runtime.SandboxStatus) ([]PodNetworkCheck, error) {
	out := make([]PodNetworkCheck, len(sandboxes))
	errs := make([]error, len(sandboxes))
	var wg sync.WaitGroup
	places := make(chan struct{}, 8)
	for i, sb := range sandboxes {
		out[i] = PodNetworkCheck{Pod: sb.Spec.Namespace + "/" + sb.Spec.Name, Sandbox: sb.ID, Problems: []network.Problem{}}
		if sb.Spec.Namespaces.Network == runtime.NamespaceNode {
			out[i].HostNetwork = true
			continue
		}
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			problems, err := n.network.Check(ctx, sb.ID)
			if err != nil {
				errs[i] = fmt.Errorf("pod %s: %w", out[i].Pod, err)
			}
			out[i].Problems = append(append(out[i].Problems, problems...), n.checkFiles(sb)...)
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b PodNetworkCheck) int {
		return cmp.Or(cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Sandbox, b.Sandbox))
	})
	return out, errors.Join(errs...)
}
