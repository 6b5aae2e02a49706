package cri

import (
	"encoding/json"
	goruntime "runtime"
	"strings"

	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// The verbose part of an answer is JSON under the keys "info" and, of the whole runtime, "config", as
// crictl prints them. sandboxID, pid, runtimeSpec, imageSpec and stateDir are what tools have come to look
// for; the rest is ours.

// infoOf is v under one key; what can't be encoded is left out.
func infoOf(key string, v any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		return map[string]string{}
	}
	return map[string]string{key: string(b)}
}

func (s *Server) containerInfo(c runtime.ContainerStatus) map[string]string {
	out := map[string]any{
		"sandboxID": c.SandboxID, "pid": c.Pid, "cgroup": c.CgroupPath, "snapshotKey": c.ID, "snapshotter": "overlay",
		"user": c.User, "stopSignal": c.StopSignal, "config": c.Spec,
	}
	if spec, err := s.rt.OCISpec(c.ID); err == nil {
		out["runtimeSpec"] = spec
	}
	return infoOf("info", out)
}

func (s *Server) sandboxInfo(sb runtime.SandboxStatus) map[string]string {
	out := map[string]any{
		"pid": sb.Pid, "cgroup": sb.CgroupPath, "runtimeHandler": sb.Spec.Handler, "config": sb.Spec, "ips": sb.IPs,
		"namespaces": map[string]string{"network": sb.NetNS, "ipc": sb.IPC, "uts": sb.UTS, "user": sb.UserNS},
	}
	if spec, err := s.rt.OCISpec(sb.ID); err == nil { // there is one where a process keeps the PID namespace
		out["runtimeSpec"] = spec
	}
	return infoOf("info", out)
}

func imageInfo(img *image.Image) map[string]string {
	return infoOf("info", map[string]any{
		"imageSpec": img.Config, "manifest": img.Manifest, "layers": img.Layers, "pulled": img.Pulled,
	})
}

func (s *Server) statusInfo() map[string]string {
	out := infoOf("info", map[string]any{
		"version": s.cfg.Version, "go": goruntime.Version(), "platform": goruntime.GOOS + "/" + goruntime.GOARCH,
		"sandboxes": len(s.rt.Sandboxes()), "containers": len(s.rt.Containers("")), "images": len(s.images.List()),
	})
	for k, v := range infoOf("config", map[string]any{
		"stateDir": s.cfg.StateDir, "snapshotDir": s.cfg.SnapshotDir, "cgroupDriver": strings.ToLower(s.cgroupDriver().String()), "handlers": s.rt.Handlers(),
		"pinnedImages": s.cfg.Pinned,
	}) {
		out[k] = v
	}
	return out
}
