package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// target is the runtime that is measured, or with floor the kernel alone.
type target struct {
	floor         *floor
	name, handler string
	endpoint      string
	conn          *grpc.ClientConn
	rt            cri.RuntimeServiceClient
	image         string
	daemon        daemon       // nil if it is not ours
	cgroupParent  string       // of pods' cgroups; "" leaves it to the runtime
	count         atomic.Int64 // of pods, for their names
}

func connect(name, endpoint, handler, image string) (*target, error) {
	r := &target{name: name, endpoint: endpoint, handler: handler, image: image}
	return r, r.reconnect()
}

// reconnect makes a new connection, in place of the old one.
func (r *target) reconnect() error {
	if r.conn != nil {
		r.conn.Close()
	}
	conn, err := grpc.NewClient(r.endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", r.endpoint, err)
	}
	r.conn, r.rt = conn, cri.NewRuntimeServiceClient(conn)
	return nil
}

func (r *target) close() { r.conn.Close() }

// round starts n pods at once, execs in all of them at once, and stops and removes them at once.
func (r *target) round(ctx context.Context, network string, n int, s *samples) error {
	if r.floor != nil {
		return r.floor.round(network, n, s)
	}
	pods := make([]*pod, n)
	steps := []func(ctx context.Context, i int) error{
		func(ctx context.Context, i int) (err error) { pods[i], err = r.start(ctx, network, s); return err },
		func(ctx context.Context, i int) error { return r.exec(ctx, pods[i], s) },
		func(ctx context.Context, i int) error { return r.remove(ctx, pods[i], s) },
	}
	for _, step := range steps {
		g, ctx := errgroup.WithContext(ctx)
		for i := range n {
			g.Go(func() error { return step(ctx, i) })
		}
		if err := g.Wait(); err != nil {
			r.abandon(pods)
			return err
		}
	}
	return nil
}

// abandon removes what a failed round left.
func (r *target) abandon(pods []*pod) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, p := range pods {
		if p != nil {
			r.remove(ctx, p, newSamples())
		}
	}
}

type pod struct{ sandbox, container string }

func (r *target) start(ctx context.Context, network string, s *samples) (*pod, error) {
	name := fmt.Sprintf("bench-%s-%d", strings.ReplaceAll(r.name, "+", "-"), r.count.Add(1))
	sandbox := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "bench"},
		Hostname: name,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD},
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	}
	if r.cgroupParent != "" {
		sandbox.Linux.CgroupParent = r.cgroupParent + "/" + name
	}
	if network == "host" {
		sandbox.Hostname = ""
		sandbox.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_NODE
	}
	container := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "block"},
		Image:    &cri.ImageSpec{Image: r.image},
		Command:  []string{"/block"},
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: sandbox.Linux.SecurityContext.NamespaceOptions,
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	}
	began := time.Now()
	sb, err := r.rt.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: r.handler})
	if err != nil {
		return nil, fmt.Errorf("RunPodSandbox: %w", err)
	}
	p := &pod{sandbox: sb.GetPodSandboxId()}
	t := s.since("  RunPodSandbox", began)
	c, err := r.rt.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.sandbox, Config: container, SandboxConfig: sandbox})
	if err != nil {
		return p, fmt.Errorf("CreateContainer: %w", err)
	}
	p.container = c.GetContainerId()
	t = s.since("  CreateContainer", t)
	if _, err := r.rt.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: p.container}); err != nil {
		return p, fmt.Errorf("StartContainer: %w", err)
	}
	s.since("  StartContainer", t)
	s.since("pod start", began)
	return p, nil
}

func (r *target) exec(ctx context.Context, p *pod, s *samples) error {
	t := time.Now()
	resp, err := r.rt.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/block", "true"}, Timeout: 60})
	if err != nil {
		return fmt.Errorf("ExecSync: %w", err)
	}
	if resp.GetExitCode() != 0 {
		return fmt.Errorf("ExecSync: exit code %d: %s", resp.GetExitCode(), resp.GetStderr())
	}
	s.since("ExecSync", t)
	return nil
}

func (r *target) remove(ctx context.Context, p *pod, s *samples) error {
	t := time.Now()
	if _, err := r.rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := r.rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	s.since("stop + remove", t)
	return nil
}
