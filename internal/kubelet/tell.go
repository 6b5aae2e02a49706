package kubelet

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/podlog"
)

func (w *worker) isInit(container string) bool {
	for i := range w.rec.Pod.Spec.InitContainers {
		if w.rec.Pod.Spec.InitContainers[i].Name == container {
			return true
		}
	}
	return false
}

func (w *worker) tellStarted(i *lifecycle.Instance) {
	e := w.event(api.ContainerStarted)
	e.Container, e.Attempt, e.Init, e.Time = i.Name, i.Attempt, w.isInit(i.Name), i.StartedAt
	w.k.log.Add(e)
}

func (w *worker) tellExited(i *lifecycle.Instance) {
	e := w.event(api.ContainerExited)
	code := i.ExitCode
	e.Container, e.Attempt, e.Init, e.Time, e.ExitCode = i.Name, i.Attempt, w.isInit(i.Name), i.FinishedAt, &code
	e.Reason, e.Message = i.Reason, i.Message
	w.k.log.Add(e)
}

func (w *worker) tellNetwork(s *runtimeapi.PodSandboxStatus) {
	e := w.event(api.PodNetwork)
	if ips := sandboxIPs(s); len(ips) > 0 {
		e.PodIP = ips[0]
	}
	e.HostPorts = hostPorts(w.rec.Pod)
	w.k.log.Add(e)
}

func (w *worker) tellReady(s *v1.PodStatus) {
	e := w.event(api.PodReady)
	e.PodIP, e.HostPorts, e.Status = s.PodIP, hostPorts(w.rec.Pod), &w.snapshot.Load().Status
	w.k.log.Add(e)
}

// tellProbe tells of a probe that turned bad.
func (w *worker) tellProbe(a lifecycle.Action, before, after *lifecycle.ProbeState) {
	if after.LastGood || !after.Failed || before.Failed {
		return
	}
	e := w.event(api.Warning)
	e.Container, e.Reason, e.Message = a.Container, "Unhealthy", string(a.ProbeKind)+" probe failed: "+after.Message
	w.k.log.Add(e)
}

// hostPorts are the ports of the host that lead to the pod.
func hostPorts(pod *v1.Pod) []api.HostPort {
	var out []api.HostPort
	for _, c := range containersOf(pod) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, api.HostPort{HostIP: p.HostIP, HostPort: p.HostPort, ContainerPort: p.ContainerPort,
					Protocol: string(p.Protocol), Container: c.Name, Name: p.Name})
			}
		}
	}
	return out
}

// Limits of a termination message, in bytes and lines; Kubernetes'.
const (
	maxMessage      = 4096
	maxMessageLog   = 2048
	maxMessageLines = 80
)

// terminationMessage is what the container left in its message file, or the end of its log where its policy says so.
func (w *worker) terminationMessage(i *lifecycle.Instance) string {
	c := w.container(i.Name)
	if c == nil {
		return ""
	}
	if message := readHead(w.messageFile(i.Name, i.Attempt), maxMessage); message != "" {
		return message
	}
	if c.TerminationMessagePolicy != v1.TerminationMessageFallbackToLogsOnError || i.ExitCode == 0 {
		return ""
	}
	lines := int64(maxMessageLines)
	var b strings.Builder
	path := filepath.Join(w.k.paths.podLogs(w.rec.Pod), criconfig.LogPath(i.Name, i.Attempt))
	if err := podlog.Copy(context.Background(), path, podlog.Options{TailLines: &lines}, nil, &b, &b); err != nil {
		return ""
	}
	s := b.String()
	return s[max(0, len(s)-maxMessageLog):]
}

func readHead(path string, n int64) string {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, n))
	if err != nil {
		return ""
	}
	return string(b)
}
