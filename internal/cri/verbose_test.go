package cri

import (
	"context"
	"encoding/json"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Verbose answers are JSON, and hold what tools look for; others hold nothing.
func TestVerbose(t *testing.T) {
	s := newServer(t)
	s.cfg.StateDir = "/run/x"
	ctx := context.Background()
	pod, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: containerConfig()})
	if err != nil {
		t.Fatal(err)
	}
	ask := map[string]func(verbose bool) map[string]string{
		"container": func(v bool) map[string]string {
			r, _ := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.ContainerId, Verbose: v})
			return r.GetInfo()
		},
		"sandbox": func(v bool) map[string]string {
			r, _ := s.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod.PodSandboxId, Verbose: v})
			return r.GetInfo()
		},
		"image": func(v bool) map[string]string {
			r, _ := s.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "img"}, Verbose: v})
			return r.GetInfo()
		},
		"runtime": func(v bool) map[string]string {
			r, _ := s.Status(ctx, &runtimeapi.StatusRequest{Verbose: v})
			return r.GetInfo()
		},
	}
	for what, keys := range map[string]map[string][]string{
		"container": {"info": {"sandboxID", "pid", "runtimeSpec", "config", "snapshotKey"}},
		"sandbox":   {"info": {"namespaces", "config", "cgroup"}},
		"image":     {"info": {"imageSpec", "layers"}},
		"runtime":   {"info": {"version", "sandboxes"}, "config": {"stateDir", "cgroupDriver"}},
	} {
		if quiet := ask[what](false); len(quiet) > 0 {
			t.Errorf("%s says %v although nobody asked", what, quiet)
		}
		got := ask[what](true)
		for key, fields := range keys {
			var v map[string]json.RawMessage
			if err := json.Unmarshal([]byte(got[key]), &v); err != nil {
				t.Errorf("%s: %q: %v", what, got[key], err)
			}
			for _, f := range fields {
				if len(v[f]) == 0 {
					t.Errorf("%s: %s has no %s", what, key, f)
				}
			}
		}
	}
}

func TestPinnedImages(t *testing.T) {
	s := newServer(t)
	for pattern, want := range map[string]bool{
		"docker.io/library/img:1": true, "docker.io/library/*": true, "docker.io/*": false, "img:1": false, "[": false,
	} {
		s.cfg.Pinned = []string{pattern}
		r, err := s.ImageStatus(context.Background(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "img"}})
		if err != nil || r.Image.Pinned != want {
			t.Errorf("%q: %v, %v", pattern, r.GetImage().GetPinned(), err)
		}
	}
}
