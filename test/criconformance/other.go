package criconformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func runtimeConfig(ctx context.Context, s *suite) error {
	r, err := s.rt.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if err != nil {
		return unimplemented(err)
	}
	if d := r.GetLinux().GetCgroupDriver(); d != runtimeapi.CgroupDriver_CGROUPFS && d != runtimeapi.CgroupDriver_SYSTEMD {
		return fmt.Errorf("the cgroup driver is %v", d)
	}
	return nil
}

func podCIDR(ctx context.Context, s *suite) error {
	set := func(cidr string) error {
		_, err := s.rt.UpdateRuntimeConfig(ctx, &runtimeapi.UpdateRuntimeConfigRequest{
			RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr}},
		})
		return err
	}
	if err := set(""); err != nil {
		return unimplemented(err)
	}
	if set("300.1.2.3/99") == nil {
		return errors.New("the pod CIDR 300.1.2.3/99 is taken")
	}
	return nil
}

func imageFs(ctx context.Context, s *suite) error {
	r, err := s.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return unimplemented(err)
	}
	if len(r.ImageFilesystems) == 0 {
		return errors.New("no filesystem of images")
	}
	for _, f := range append(r.ImageFilesystems, r.ContainerFilesystems...) {
		if info, err := os.Stat(f.GetFsId().GetMountpoint()); err != nil || !info.IsDir() {
			return fmt.Errorf("%v: no folder of this machine: %w", f, errors.Join(err, errOther))
		}
		if f.Timestamp <= 0 || f.UsedBytes == nil || f.InodesUsed == nil {
			return fmt.Errorf("%v is not whole", f)
		}
	}
	return nil
}

// imageID: api.proto since 1.36: Image.id, Container.image_id, ContainerStatus.image_id and
// PullImageResponse.image_ref are one.
func imageID(ctx context.Context, s *suite) error {
	ref, err := s.pull(ctx, s.Image)
	if err != nil {
		return err
	}
	st, err := s.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: s.Image}})
	if err != nil {
		return err
	}
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.create(ctx, "c", "true", nil)
		if err != nil {
			return err
		}
		cs, err := s.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		l, err := s.rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: id}})
		if err != nil || len(l.Containers) != 1 {
			return fmt.Errorf("list %v, %w", l, errors.Join(err, errOther))
		}
		got := []string{ref, st.GetImage().GetId(), cs.Status.ImageId, l.Containers[0].ImageId}
		for _, g := range got {
			if g != ref {
				return fmt.Errorf("PullImage, ImageStatus, ContainerStatus and ListContainers call one image %q", got)
			}
		}
		return nil
	})
}

// removeByTag: api.proto, RemoveImage: "this call must remove all tags".
func removeByTag(ctx context.Context, s *suite) error {
	for _, ref := range []string{s.Image, s.AlsoTagged} {
		if _, err := s.pull(ctx, ref); err != nil {
			return err
		}
	}
	if _, err := s.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: s.AlsoTagged}}); err != nil {
		return err
	}
	for _, ref := range []string{s.Image, s.AlsoTagged} {
		st, err := s.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if err == nil && st.Image != nil {
			err = fmt.Errorf("%s is still there: %v", ref, st.Image)
		}
		if err != nil {
			return err
		}
	}
	if _, err := s.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: s.AlsoTagged}}); err != nil {
		return fmt.Errorf("a second removal: %w", err)
	}
	_, err := s.pull(ctx, s.Image)
	return err
}

func envBytes(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
			c.Envs = []*runtimeapi.KeyValue{{Key: "RAW", Value: []byte{'a', 0xff, 0xfe, 'z'}}}
		})
		if status.Code(err) == codes.Internal && strings.Contains(err.Error(), "UTF-8") {
			return fmt.Errorf("%w: env values are strings: %w", errSkip, err)
		}
		if err != nil {
			return err
		}
		r, err := s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "tr '\\0' '\\n' </proc/1/environ | grep ^RAW"}, Timeout: 20})
		if err != nil || string(r.Stdout) != "RAW=a\xff\xfez\n" {
			return fmt.Errorf("the variable is %q, %w", r.GetStdout(), errors.Join(err, errOther))
		}
		r, err = s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", `printf %s "$RAW"`}, Timeout: 20})
		if err != nil || string(r.Stdout) != "a\xff\xfez" {
			return fmt.Errorf("the variable of a command of exec is %q, %w", r.GetStdout(), errors.Join(err, errOther))
		}
		return nil
	})
}

func execSync(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", nil)
		if err != nil {
			return err
		}
		exec := func(timeout int64, script string) (*runtimeapi.ExecSyncResponse, error) {
			return s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", script}, Timeout: timeout})
		}
		if _, err := exec(1, "sleep 60"); wantCode("timeout", err, codes.DeadlineExceeded) != nil {
			return wantCode("timeout", err, codes.DeadlineExceeded)
		}
		r, err := exec(0, "echo out; echo err >&2; exit 7")
		if err != nil || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" || r.ExitCode != 7 {
			return fmt.Errorf("%v, %w", r, errors.Join(err, errOther))
		}
		r, err = exec(0, "dd if=/dev/zero bs=1048576 count=20 2>/dev/null")
		if err == nil && len(r.Stdout) > 16<<20 {
			err = fmt.Errorf("%d bytes of output are kept", len(r.Stdout))
		}
		return err
	})
}

func urlOnce(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", nil)
		if err != nil {
			return err
		}
		r, err := s.rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "exit 3"}, Stdout: true})
		if err != nil {
			return err
		}
		var out strings.Builder
		if err := stream(ctx, r.Url, &out, nil); err == nil || !strings.Contains(err.Error(), "3") {
			return fmt.Errorf("exit code 3 is told as %w", errors.Join(err, errOther))
		}
		if err := stream(ctx, r.Url, &out, nil); err == nil || strings.Contains(err.Error(), "exit code") {
			return errors.New("the URL was good a second time")
		}
		for _, bad := range []*runtimeapi.ExecRequest{
			{ContainerId: id, Cmd: []string{"true"}}, {ContainerId: id, Cmd: []string{"true"}, Stdout: true, Stderr: true, Tty: true},
		} {
			_, err := s.rt.Exec(ctx, bad)
			if err := wantCode(fmt.Sprint(bad), err, codes.InvalidArgument); err != nil {
				return err
			}
		}
		return nil
	})
}

// stream is a client of an exec or attach.
func stream(ctx context.Context, address string, out *strings.Builder, mu *sync.Mutex) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, http.MethodPost, u)
	if err != nil {
		return err
	}
	return ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: lockedWriter{out, mu}})
}

type lockedWriter struct {
	b  *strings.Builder
	mu *sync.Mutex
}

func (w lockedWriter) Write(p []byte) (int, error) {
	if w.mu != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	return w.b.Write(p)
}

func attachMany(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "talks", "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; sleep 1000", nil)
		if err != nil {
			return err
		}
		actx, leave := context.WithCancel(ctx)
		defer leave()
		const clients = 4
		outs, mu := make([]strings.Builder, clients), sync.Mutex{}
		var wg sync.WaitGroup
		defer wg.Wait()
		defer leave()
		for i := range clients {
			r, err := s.rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
			if err != nil {
				return err
			}
			wg.Go(func() { stream(actx, r.Url, &outs[i], &mu) })
		}
		err = until(ctx, "all clients see the last line", func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			for i := range outs {
				if !strings.Contains(outs[i].String(), "line 59\n") {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			return err
		}
		return wholeLog(ctx, filepath.Join(s.Dir, p.cfg.Metadata.Name+"-talks.log"))
	})
}

func wholeLog(ctx context.Context, path string) error {
	return until(ctx, "the log has all lines once", func() (bool, error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		for i, l := range lines {
			if !strings.HasSuffix(l, fmt.Sprintf(" stdout F line %d", i)) {
				return false, fmt.Errorf("line %d of the log is %q", i, l)
			}
		}
		return len(lines) == 60, nil
	})
}

func notFound(ctx context.Context, s *suite) error {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for what, call := range map[string]func() error{
		"ContainerStats": func() error {
			_, err := s.rt.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: id})
			return err
		},
		"PodSandboxStats": func() error {
			_, err := s.rt.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
			return err
		},
		"UpdateContainerResources": func() error {
			_, err := s.rt.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: 10}})
			return err
		},
		"ReopenContainerLog": func() error {
			_, err := s.rt.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
			return err
		},
		"ExecSync": func() error {
			_, err := s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
			return err
		},
		"PortForward": func() error {
			_, err := s.rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: []int32{80}})
			return err
		},
	} {
		err := call()
		if status.Code(err) == codes.Unknown && strings.Contains(err.Error(), "not found") {
			continue // said in words
		}
		if err := wantCode(what, err, codes.NotFound); err != nil {
			return err
		}
	}
	return nil
}

// checkpoints: a runtime without CRIU says so; one with it leaves an archive and a container that runs on.
func checkpoints(ctx context.Context, s *suite) error {
	return withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", nil)
		if err != nil {
			return err
		}
		path := filepath.Join(s.Dir, "checkpoint.tar")
		_, err = s.rt.CheckpointContainer(ctx, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: path, Timeout: 60})
		st, serr := s.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if serr != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			return fmt.Errorf("after the checkpoint the container is %v, %w", st.GetStatus().GetState(), errors.Join(serr, errOther))
		}
		if err != nil {
			if _, serr := os.Stat(path); serr == nil {
				return fmt.Errorf("a failed checkpoint left %s: %w", path, err)
			}
			return fmt.Errorf("%w: %w", errSkip, err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() == 0 {
			return fmt.Errorf("no archive: %w", errors.Join(err, errOther))
		}
		_, err = s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 20})
		return err // it runs on
	})
}

// podCheckpoints: of a folder that is written, a pod is made whose containers wait for their start and run on then.
func podCheckpoints(ctx context.Context, s *suite) error {
	dir := filepath.Join(s.Dir, "pod-checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var config *runtimeapi.PodSandboxConfig
	var container *runtimeapi.ContainerConfig
	err := withPod(ctx, s, func(p *pod) error {
		id, err := p.start(ctx, "c", "sleep 1000", func(c *runtimeapi.ContainerConfig) {
			container = c
		})
		if err != nil {
			return err
		}
		config = p.cfg
		_, err = s.rt.CheckpointPod(ctx, &runtimeapi.CheckpointPodRequest{PodSandboxId: p.id, OutputPath: dir, ContainerIds: []string{id}})
		if err != nil {
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				return fmt.Errorf("a failed checkpoint left %v: %w", left, err)
			}
			return fmt.Errorf("%w: %w", errSkip, err)
		}
		_, err = s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 20})
		return err
	})
	if err != nil {
		return err
	}
	config.Metadata.Uid += "-restored"
	made, err := s.rt.RestorePod(ctx, &runtimeapi.RestorePodRequest{CheckpointPath: dir, Config: config, ContainerConfigs: []*runtimeapi.ContainerConfig{container}})
	if err != nil {
		return err
	}
	defer s.rt.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId})
	if len(made.RestoredContainers) != 1 || made.RestoredContainers[0].Name != "c" {
		return fmt.Errorf("restored %v: %w", made.RestoredContainers, errOther)
	}
	id := made.RestoredContainers[0].ContainerId
	if st, err := s.rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id}); err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return fmt.Errorf("before its start the container is %v: %w", st.GetStatus().GetState(), errors.Join(err, errOther))
	}
	if _, err := s.rt.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	_, err = s.rt.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 20})
	return err
}
