package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// podName is a pod as the command line names it: NAME, or NAMESPACE/NAME.
type podName struct{ namespace, name string }

func parsePod(arg string) podName {
	arg = strings.TrimPrefix(strings.TrimPrefix(arg, "pod/"), "pods/")
	if ns, name, ok := strings.Cut(arg, "/"); ok {
		return podName{ns, name}
	}
	return podName{v1.NamespaceDefault, arg}
}

func nameOf(p *v1.Pod) podName { return podName{p.Namespace, p.Name} }

func (p podName) String() string {
	if p.namespace == v1.NamespaceDefault {
		return p.name
	}
	return p.namespace + "/" + p.name
}

// findPod gets one pod; where there is none, it says which there are.
func findPod(ctx context.Context, h *handle, name podName) (*v1.Pod, error) {
	pod, err := h.Pod(ctx, name.namespace, name.name)
	if err == nil {
		return pod, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	pods, listErr := h.Pods(ctx)
	if listErr != nil || len(pods) == 0 {
		return nil, fail("no pod is running; see berth ps", "there is no pod %s", name)
	}
	return nil, fail("there is "+strings.Join(podNames(pods), ", "), "there is no pod %s", name)
}

func podNames(pods []v1.Pod) []string {
	names := make([]string, 0, len(pods))
	for i := range pods {
		names = append(names, nameOf(&pods[i]).String())
	}
	sort.Strings(names)
	return names
}

// pickContainer returns the container called want, or the pod's first one.
func pickContainer(pod *v1.Pod, want string) (string, error) {
	if want == "" {
		return pod.Spec.Containers[0].Name, nil
	}
	var names []string
	for _, c := range append(append([]v1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if c.Name == want {
			return want, nil
		}
		names = append(names, c.Name)
	}
	return "", fail("it has "+strings.Join(names, ", "), "pod %s has no container %s", nameOf(pod), want)
}

// completePods completes the names of pods, and after them nothing.
func (c *cli) completePods(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	h, ok := c.completing(cmd)
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer h.Close()
	pods, err := h.Pods(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, n := range podNames(pods) {
		if !slices.Contains(args, n) {
			names = append(names, n)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeContainers completes -c for the pod that the first argument names.
func (c *cli) completeContainers(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	h, ok := c.completing(cmd)
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer h.Close()
	pod, err := findPod(cmd.Context(), h, parsePod(args[0]))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, ct := range pod.Spec.Containers {
		names = append(names, ct.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// hostPorts is where a pod's ports are on the host: "127.0.0.1:8080→80".
func hostPorts(pod *v1.Pod) string {
	var out []string
	for _, ct := range pod.Spec.Containers {
		for _, p := range ct.Ports {
			if p.HostPort == 0 {
				continue
			}
			host := ""
			if p.HostIP != "" && p.HostIP != "0.0.0.0" {
				host = p.HostIP + ":"
			}
			proto := ""
			if p.Protocol != "" && p.Protocol != v1.ProtocolTCP {
				proto = "/" + strings.ToLower(string(p.Protocol))
			}
			out = append(out, fmt.Sprintf("%s%d→%d%s", host, p.HostPort, p.ContainerPort, proto))
		}
	}
	return strings.Join(out, ",")
}
