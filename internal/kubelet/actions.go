package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/status"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/volume"
	"github.com/11f9778f/berth/internal/trace"
)

// hostsFile and containersDir are in the pod's folder. containers/<name>/<attempt> becomes the container's
// termination message file.
const (
	hostsFile     = "etc-hosts"
	containersDir = "containers"
)

// action does one step. It runs beside the worker and touches nothing of its own; what it learned is run on
// the worker's goroutine, also when there is an error.
type action func(ctx context.Context) (learned func(), err error)

// failure is an error with the reason that a kubelet would give.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// explain turns an action's error into a status's reason and message.
func explain(a lifecycle.Action, err error) (reason, message string) {
	reason = map[lifecycle.Kind]string{
		lifecycle.PrepareVolumes: "FailedMount", lifecycle.EnsureImage: "ErrImagePull", lifecycle.CreateSandbox: "CreatePodSandboxError",
		lifecycle.StartContainer: "CreateContainerError", lifecycle.StopContainer: "FailedKillContainer", lifecycle.StopSandbox: "FailedKillPod",
		lifecycle.RemoveContainer: "FailedRemoveContainer", lifecycle.RemoveSandbox: "FailedRemovePod", lifecycle.CleanUp: "FailedCleanUp",
	}[a.Kind]
	var f *failure
	if errors.As(err, &f) {
		reason = f.reason
	}
	return reason, plain(err)
}

// plain is the error's text without gRPC's wrapping.
func plain(err error) string {
	var inner interface {
		error
		GRPCStatus() *status.Status
	}
	if errors.As(err, &inner) {
		return strings.Replace(err.Error(), inner.Error(), inner.GRPCStatus().Message(), 1)
	}
	return err.Error()
}

// prepare captures what an action needs of the worker's state, on the worker's goroutine.
func (w *worker) prepare(a lifecycle.Action) action {
	switch a.Kind {
	case lifecycle.PrepareVolumes:
		return w.prepareVolumes()
	case lifecycle.EnsureImage:
		return w.ensureImage(a)
	case lifecycle.CreateSandbox:
		return w.createSandbox(a)
	case lifecycle.StartContainer:
		return w.startContainer(a)
	case lifecycle.StopContainer:
		return w.stopContainer(a)
	case lifecycle.StopSandbox:
		return w.stopSandbox(a)
	case lifecycle.RemoveContainer:
		return w.removeContainer(a)
	case lifecycle.RemoveSandbox:
		return w.removeSandbox(a)
	case lifecycle.Probe:
		return w.probe(a)
	case lifecycle.CleanUp:
		return w.cleanUp()
	}
	return func(context.Context) (func(), error) { return nil, fmt.Errorf("there is no action %s", a.Kind) }
}

func (w *worker) volumes() *volume.Pod {
	return &volume.Pod{Dir: w.k.paths.pod(w.uid), Pod: w.rec.Pod, ConfigMaps: w.rec.ConfigMaps, Secrets: w.rec.Secrets}
}

func (w *worker) prepareVolumes() action {
	v, logs := w.volumes(), w.k.paths.podLogs(w.rec.Pod)
	pod := w.rec.Pod
	return func(ctx context.Context) (func(), error) {
		defer trace.Start(ctx, "kubelet.volumes")()
		for _, c := range containersOf(pod) {
			for _, dir := range []string{filepath.Join(logs, c.Name), filepath.Join(v.Dir, containersDir, c.Name)} {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return nil, err
				}
			}
		}
		if err := v.Prepare(); err != nil {
			return nil, err
		}
		return func() { w.obs.VolumesReady = true }, nil
	}
}

func containersOf(pod *v1.Pod) []*v1.Container {
	var list []*v1.Container
	for i := range pod.Spec.InitContainers {
		list = append(list, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		list = append(list, &pod.Spec.Containers[i])
	}
	return list
}

func (w *worker) container(name string) *v1.Container {
	for _, c := range containersOf(w.rec.Pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (w *worker) createSandbox(a lifecycle.Action) action {
	k, pod := w.k, w.rec.Pod
	config := criconfig.Sandbox(&k.node, pod, a.Attempt, k.paths.podLogs(pod))
	return func(ctx context.Context) (func(), error) {
		defer trace.Start(ctx, "kubelet.sandbox")()
		got, err := k.runSandbox(ctx, pod, config)
		if err != nil {
			return w.strayOf(ctx), err
		}
		return func() {
			w.learnSandbox(got, true)
			w.tellNetwork(got)
		}, nil
	}
}

func (k *Kubelet) runSandbox(ctx context.Context, pod *v1.Pod, config *runtimeapi.PodSandboxConfig) (*runtimeapi.PodSandboxStatus, error) {
	if err := failpoint.Here("kubelet/sandbox/before"); err != nil {
		return nil, err
	}
	req := &runtimeapi.RunPodSandboxRequest{Config: config}
	if class := pod.Spec.RuntimeClassName; class != nil { // no API server says otherwise: a class is called as its handler
		req.RuntimeHandler = *class
	}
	made, err := k.cfg.Runtime.RunPodSandbox(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Here("kubelet/sandbox/after"); err != nil {
		return nil, err
	}
	got, err := k.cfg.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.PodSandboxId})
	if err != nil {
		return nil, err
	}
	return got.Status, k.writeHosts(pod, sandboxIPs(got.Status))
}

// strayOf looks, after a failure, for a sandbox that was made all the same. It counts as one that ended: it is
// taken away before the next try, or with the pod.
func (w *worker) strayOf(ctx context.Context) func() {
	got, err := w.k.cfg.Runtime.ListPodSandbox(context.WithoutCancel(ctx), &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{criconfig.LabelPodUID: w.uid}}})
	if err != nil {
		return nil // the list after the runtime's return will tell
	}
	return func() {
		for _, s := range got.Items {
			w.learnSandbox(&runtimeapi.PodSandboxStatus{Id: s.Id, Metadata: s.Metadata, CreatedAt: s.CreatedAt,
				State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}, true)
		}
	}
}

// writeHosts writes the pod's /etc/hosts in place: containers that have the file mounted see it.
func (k *Kubelet) writeHosts(pod *v1.Pod, ips []string) error {
	var host []byte
	if pod.Spec.HostNetwork {
		b, err := os.ReadFile(k.cfg.HostsFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		host = b
	}
	path := filepath.Join(k.paths.pod(string(pod.UID)), hostsFile)
	if err := os.WriteFile(path, criconfig.Hosts(pod, ips, host), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

func (w *worker) stopSandbox(a lifecycle.Action) action {
	rt := w.k.cfg.Runtime
	return func(ctx context.Context) (func(), error) {
		if err := failpoint.Here("kubelet/stop-sandbox/before"); err != nil {
			return nil, err
		}
		_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: a.ID})
		if notFound(err) {
			return func() { w.forgetSandbox(a.ID) }, nil
		}
		if err != nil {
			return nil, err
		}
		containers, err := statuses(ctx, rt, a.ID)
		if err != nil {
			return nil, err
		}
		return func() {
			for _, s := range containers {
				w.learnContainer(s, a.ID, false)
			}
			for i := range w.obs.Sandboxes {
				if w.obs.Sandboxes[i].ID == a.ID {
					w.obs.Sandboxes[i].Stopped, w.obs.Sandboxes[i].Ready = true, false
				}
			}
		}, nil
	}
}

func (w *worker) removeSandbox(a lifecycle.Action) action {
	rt := w.k.cfg.Runtime
	return func(ctx context.Context) (func(), error) {
		if err := failpoint.Here("kubelet/remove-sandbox/before"); err != nil {
			return nil, err
		}
		_, err := rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: a.ID})
		if err == nil {
			_, err = rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: a.ID})
		}
		if err != nil && !notFound(err) {
			return nil, err
		}
		return func() { w.forgetSandbox(a.ID) }, failpoint.Here("kubelet/remove-sandbox/after")
	}
}

func (w *worker) cleanUp() action {
	return func(context.Context) (func(), error) {
		if err := w.k.paths.remove(w.rec); err != nil {
			return nil, err
		}
		return func() { w.obs.Cleaned = true }, nil
	}
}
