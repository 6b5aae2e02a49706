package criconformance

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Config says what is checked.
type Config struct {
	// Socket is the path of the runtime's CRI socket.
	Socket string
	// Image is pulled and run; it has /bin/sh of busybox. AlsoTagged is another name of the same image.
	Image, AlsoTagged string
	// Dir is a folder for logs, writable for the runtime.
	Dir string
	// CgroupParent is the cgroup that the pods' are made below, in the manner of cgroupfs.
	CgroupParent string
}

// State is how a check has ended.
type State string

const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped" // the runtime does not implement it
)

// Result is what came of one check.
type Result struct {
	Name  string
	State State
	Err   error // why not passed
	Took  time.Duration
}

// check is one promise of the CRI.
type check struct {
	name string
	run  func(ctx context.Context, s *suite) error
}

// errSkip is wrapped by errors that say that the runtime does not have something.
var errSkip = errors.New("not implemented by this runtime")

// suite is a connection with what checks need.
type suite struct {
	Config
	rt     runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	count  int
}

// Run runs all checks, one after the other, and tells of each as it ends. Its error means that none could
// be run.
func Run(ctx context.Context, cfg Config, told func(Result)) error {
	// 16 MiB: as much as a kubelet takes.
	conn, err := grpc.NewClient("passthrough:///"+cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithContextDialer(func(ctx context.Context, p string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	s := &suite{Config: cfg, rt: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}
	if _, err := s.rt.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		return fmt.Errorf("ask %s who it is: %w", cfg.Socket, err)
	}
	if _, err := s.pull(ctx, cfg.Image); err != nil {
		return err
	}
	for _, c := range checks() {
		began := time.Now()
		cctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err := c.run(cctx, s)
		cancel()
		r := Result{Name: c.name, State: Passed, Err: err, Took: time.Since(began)}
		switch {
		case errors.Is(err, errSkip):
			r.State = Skipped
		case err != nil:
			r.State = Failed
		}
		told(r)
	}
	return ctx.Err()
}

func checks() []check {
	return []check{
		{"a container's events come in order, each once, with its pod", eventsInOrder},
		{"a reader of events that does not read holds nobody up", slowReader},
		{"streamed lists have what lists have, each item once", streamedLists},
		{"statistics of a pod are those of its containers and more", podStats},
		{"statistics are listed by filter, of what runs", statsFilters},
		{"metrics have a descriptor with as many labels", metricsMatch},
		{"limits of a container are updated and told", updateContainer},
		{"limits of a pod are updated", updatePod},
		{"the runtime's configuration names a cgroup driver", runtimeConfig},
		{"an empty pod CIDR changes nothing, a bad one is refused", podCIDR},
		{"filesystems of images have a place and a size", imageFs},
		{"an image has one ID wherever it is told", imageID},
		{"an image that is removed by one name has no name left", removeByTag},
		{"the value of a variable is bytes", envBytes},
		{"ExecSync ends at its timeout and keeps 16 MiB of output", execSync},
		{"a URL of a stream is good once", urlOnce},
		{"several clients attach, and the log is whole", attachMany},
		{"calls on what is not there say so", notFound},
		{"a container is checkpointed, or that is refused with the reason", checkpoints},
		{"a pod is checkpointed and restored, or that is refused with the reason", podCheckpoints},
	}
}

// unimplemented turns a code into a skip.
func unimplemented(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("%w: %s", errSkip, status.Convert(err).Message())
	}
	return err
}

func (s *suite) pull(ctx context.Context, ref string) (string, error) {
	r, err := s.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	return r.ImageRef, nil
}

// pod is a sandbox of a check.
type pod struct {
	s   *suite
	id  string
	cfg *runtimeapi.PodSandboxConfig
}

// newPod makes a pod on the host's network, so that it needs no network plugin.
func (s *suite) newPod(ctx context.Context) (*pod, error) {
	s.count++
	name := fmt.Sprintf("conformance-%d", s.count)
	p := &pod{s: s, cfg: &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Uid: fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), Namespace: "conformance"},
		LogDirectory: s.Dir, Labels: map[string]string{"check": name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: s.CgroupParent + "/" + name, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}}
	r, err := s.rt.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: p.cfg})
	if err != nil {
		return nil, fmt.Errorf("run pod: %w", err)
	}
	p.id = r.PodSandboxId
	return p, nil
}

// remove removes the pod whatever became of the check.
func (p *pod) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if _, err := p.s.rt.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("stop pod: %w", err)
	}
	if _, err := p.s.rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("remove pod: %w", err)
	}
	return nil
}

// withPod runs f with a pod of its own.
func withPod(ctx context.Context, s *suite, f func(p *pod) error) error {
	p, err := s.newPod(ctx)
	if err != nil {
		return err
	}
	return errors.Join(f(p), p.remove(ctx))
}

// create makes a container that runs a script; change may be nil.
func (p *pod) create(ctx context.Context, name, script string, change func(*runtimeapi.ContainerConfig)) (string, error) {
	cfg := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: p.s.Image},
		Command: []string{"/bin/sh", "-c", script}, LogPath: p.cfg.Metadata.Name + "-" + name + ".log",
		Labels: map[string]string{"name": name}, Linux: &runtimeapi.LinuxContainerConfig{},
	}
	if change != nil {
		change(cfg)
	}
	r, err := p.s.rt.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: cfg, SandboxConfig: p.cfg})
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	return r.ContainerId, nil
}

func (p *pod) start(ctx context.Context, name, script string, change func(*runtimeapi.ContainerConfig)) (string, error) {
	id, err := p.create(ctx, name, script, change)
	if err != nil {
		return "", err
	}
	if _, err := p.s.rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return "", fmt.Errorf("start container: %w", err)
	}
	return id, nil
}

// until asks again until it holds or ctx ends.
func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		ok, err := holds()
		if ok || err != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}

// wantCode is nil if err has the code.
func wantCode(what string, err error, want ...codes.Code) error {
	for _, c := range want {
		if status.Code(err) == c {
			return nil
		}
	}
	var names []string
	for _, c := range want {
		names = append(names, c.String())
	}
	return fmt.Errorf("%s: %v, want %s", what, err, strings.Join(names, " or "))
}
