package kubelet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/probe"
	"github.com/11f9778f/berth/internal/trace"
)

// startInput is all that a container's configuration is made from.
func (w *worker) startInput(a lifecycle.Action) *criconfig.Input {
	in := &criconfig.Input{
		Node: &w.k.node, Pod: w.rec.Pod, Container: w.container(a.Container), Attempt: a.Attempt, BackOff: a.BackOff,
		ConfigMaps: w.rec.ConfigMaps, Secrets: w.rec.Secrets, ImageRef: w.images[a.Container],
		VolumePath: w.volumes().Path, HostsFile: filepath.Join(w.k.paths.pod(w.uid), hostsFile),
		MessageFile: w.messageFile(a.Container, a.Attempt),
	}
	for i := range w.obs.Sandboxes {
		if w.obs.Sandboxes[i].ID == a.ID {
			in.PodIPs = w.obs.Sandboxes[i].IPs
		}
	}
	if w.rec.Pod.Spec.HostNetwork && len(in.PodIPs) == 0 {
		in.PodIPs = []string{w.k.node.HostIP}
	}
	return in
}

func (w *worker) startContainer(a lifecycle.Action) action {
	in := w.startInput(a)
	rt := w.k.cfg.Runtime
	sandbox := criconfig.Sandbox(&w.k.node, w.rec.Pod, 0, w.k.paths.podLogs(w.rec.Pod))
	return func(ctx context.Context) (func(), error) {
		defer trace.Start(ctx, "kubelet.start "+a.Container)()
		id := a.InstanceID
		var err error
		if id == "" {
			if id, err = w.create(ctx, a, in, sandbox); err != nil {
				return w.askSandbox(ctx, a.ID), err
			}
		}
		startErr := failpoint.Here("kubelet/start/before")
		if startErr == nil {
			_, startErr = rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if startErr == nil {
			startErr = failpoint.Here("kubelet/start/after")
		}
		got, err := rt.ContainerStatus(context.WithoutCancel(ctx), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if startErr == nil {
			if err != nil {
				return nil, err
			}
			return func() { w.learnContainer(got.Status, a.ID, false) }, nil
		}
		learned := w.askSandbox(ctx, a.ID)
		return func() {
			learned()
			if err == nil {
				w.learnContainer(got.Status, a.ID, false)
				w.neverStarted(id, startErr)
			}
		}, &failure{"RunContainerError", startErr}
	}
}

// neverStarted: an instance that could not be started counts as one that ended, as the pod's restart policy
// has to be applied to it.
func (w *worker) neverStarted(id string, err error) {
	i := w.instance(id)
	if i == nil || i.State == lifecycle.Exited || i.State == lifecycle.Running || w.ctx.Err() != nil {
		return
	}
	i.State = lifecycle.Exited
	w.exited(i, &runtimeapi.ContainerStatus{ExitCode: 128, Reason: "StartError", Message: plain(err)}, false)
}

// askSandbox asks for a sandbox's state after a failure: that it ended may be why.
func (w *worker) askSandbox(ctx context.Context, id string) func() {
	got, err := w.k.cfg.Runtime.PodSandboxStatus(context.WithoutCancel(ctx), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	switch {
	case notFound(err):
		return func() { w.forgetSandbox(id) }
	case err != nil:
		return func() {}
	}
	return func() { w.learnSandbox(got.Status, false) }
}

// create makes the container in the runtime.
func (w *worker) create(ctx context.Context, a lifecycle.Action, in *criconfig.Input, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	if needsImageUser(in) {
		got, err := w.k.cfg.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: in.ImageRef}})
		if err != nil {
			return "", err
		}
		in.ImageUser = got.Image
	}
	config, err := criconfig.Container(in)
	if err != nil {
		return "", &failure{"CreateContainerConfigError", err}
	}
	if err := touch(in.MessageFile); err != nil {
		return "", err
	}
	if err := failpoint.Here("kubelet/create/before"); err != nil {
		return "", err
	}
	made, err := w.k.cfg.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: a.ID, Config: config, SandboxConfig: sandbox})
	if err != nil {
		return "", err
	}
	return made.ContainerId, failpoint.Here("kubelet/create/after")
}

func needsImageUser(in *criconfig.Input) bool {
	if s := in.Container.SecurityContext; s != nil && s.RunAsNonRoot != nil {
		return *s.RunAsNonRoot
	}
	s := in.Pod.Spec.SecurityContext
	return s != nil && s.RunAsNonRoot != nil && *s.RunAsNonRoot
}

// touch makes the termination message file, which the container's user may write whoever it is.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Chmod(0o666)
}

func (w *worker) messageFile(container string, attempt uint32) string {
	return filepath.Join(w.k.paths.pod(w.uid), containersDir, container, strconv.FormatUint(uint64(attempt), 10))
}

func notFound(err error) bool { return status.Code(err) == codes.NotFound }

func (w *worker) stopContainer(a lifecycle.Action) action {
	rt := w.k.cfg.Runtime
	return func(ctx context.Context) (func(), error) {
		if err := failpoint.Here("kubelet/stop/before"); err != nil {
			return nil, err
		}
		timeout := int64((a.Grace + time.Second - 1) / time.Second)
		_, err := rt.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: a.ID, Timeout: timeout})
		if err != nil && !notFound(err) {
			return nil, err
		}
		got, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: a.ID})
		switch {
		case notFound(err):
			return func() { w.forgetContainer(a.ID) }, nil
		case err != nil:
			return nil, err
		}
		return func() { w.learnContainer(got.Status, "", false) }, nil
	}
}

func (w *worker) removeContainer(a lifecycle.Action) action {
	rt := w.k.cfg.Runtime
	attempt := uint32(0)
	if i := w.instance(a.ID); i != nil {
		attempt = i.Attempt
	}
	log := filepath.Join(w.k.paths.podLogs(w.rec.Pod), criconfig.LogPath(a.Container, attempt))
	message := w.messageFile(a.Container, attempt)
	return func(ctx context.Context) (func(), error) {
		_, err := rt.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: a.ID})
		if err != nil && !notFound(err) {
			return nil, err
		}
		rotated, _ := filepath.Glob(log + ".*")
		for _, f := range slices.Concat([]string{log, message}, rotated) {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		return func() { w.forgetContainer(a.ID) }, nil
	}
}

func (w *worker) probe(a lifecycle.Action) action {
	c := w.container(a.Container)
	p := lifecycle.ProbeOf(c, a.ProbeKind)
	target := probe.Target{Container: c, PodIP: w.obs.Status.PodIP, Exec: w.exec(a.ID)}
	return func(ctx context.Context) (func(), error) {
		good, message := probe.Run(ctx, p, target)
		if ctx.Err() != nil {
			return nil, nil
		}
		return func() {
			if w.instance(a.ID) == nil {
				return
			}
			if w.obs.Probes[a.ID] == nil {
				w.obs.Probes[a.ID] = &lifecycle.ProbeStates{}
			}
			s := w.obs.Probes[a.ID].Of(a.ProbeKind)
			before := *s
			s.Record(p, good, message, time.Now())
			w.tellProbe(a, &before, s)
		}, nil
	}
}

// exec runs a command in an instance for a probe.
func (w *worker) exec(id string) probe.Exec {
	rt := w.k.cfg.Runtime
	return func(ctx context.Context, command []string, timeout time.Duration) ([]byte, int32, error) {
		got, err := rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
		if err != nil {
			return nil, 0, errors.New(plain(err))
		}
		return append(got.Stdout, got.Stderr...), got.ExitCode, nil
	}
}
