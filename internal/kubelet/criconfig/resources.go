package criconfig

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
)

// The numbers are those of k8s.io/kubernetes pkg/kubelet/cm/helpers_linux.go.
const (
	cpuPeriod = 100_000 // µs
	minShares = 2
	maxShares = 262_144
	minQuota  = 1_000 // µs
)

func shares(cpu resource.Quantity) int64 {
	return min(max(cpu.MilliValue()*1024/1000, minShares), maxShares)
}

// quota is 0, which is none, where there is no limit.
func quota(cpu resource.Quantity) int64 {
	if cpu.IsZero() {
		return 0
	}
	return max(cpu.MilliValue()*cpuPeriod/1000, minQuota)
}

func containerResources(in *Input) *runtimeapi.LinuxContainerResources {
	req, lim := in.Container.Resources.Requests, in.Container.Resources.Limits
	cpu := req[v1.ResourceCPU]
	if _, asked := req[v1.ResourceCPU]; !asked {
		cpu = lim[v1.ResourceCPU]
	}
	memory := lim[v1.ResourceMemory]
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          shares(cpu),
		CpuQuota:           quota(lim[v1.ResourceCPU]),
		MemoryLimitInBytes: memory.Value(),
		OomScoreAdj:        oomScore(in),
	}
	if out.CpuQuota != 0 {
		out.CpuPeriod = cpuPeriod
	}
	return out
}

// oomScore follows pkg/kubelet/qos/policy.go: the less a container asks for, the sooner it is killed.
func oomScore(in *Input) int64 {
	switch lifecycle.QOSClass(&in.Pod.Spec) {
	case v1.PodQOSGuaranteed:
		return -997
	case v1.PodQOSBestEffort:
		return 1000
	}
	request := in.Container.Resources.Requests[v1.ResourceMemory]
	if in.Node.MemoryTotal <= 0 {
		return 999
	}
	score := 1000 - 1000*request.Value()/in.Node.MemoryTotal
	return min(max(score, 3), 999)
}

// podResources are the limits of the pod's own cgroup: the sum of its containers', or that of the greediest
// init container where it is more. One container without a limit leaves the pod without.
func podResources(s *v1.PodSpec) *runtimeapi.LinuxContainerResources {
	requests := v1.ResourceList{}
	limits := v1.ResourceList{}
	limited := map[v1.ResourceName]bool{v1.ResourceCPU: true, v1.ResourceMemory: true}
	for name := range limited {
		request, limit := resource.Quantity{}, resource.Quantity{}
		sum := func(c *v1.Container) {
			request.Add(c.Resources.Requests[name])
			limit.Add(c.Resources.Limits[name])
			if q := c.Resources.Limits[name]; q.IsZero() {
				limited[name] = false
			}
		}
		for i := range s.Containers {
			sum(&s.Containers[i])
		}
		for i := range s.InitContainers {
			c := &s.InitContainers[i]
			if lifecycle.IsSidecar(c) {
				sum(c)
			}
		}
		for i := range s.InitContainers {
			c := &s.InitContainers[i]
			if q := c.Resources.Requests[name]; q.Cmp(request) > 0 {
				request = q
			}
			if q := c.Resources.Limits[name]; q.Cmp(limit) > 0 {
				limit = q
			} else if q.IsZero() {
				limited[name] = false
			}
		}
		requests[name], limits[name] = request, limit
	}
	out := &runtimeapi.LinuxContainerResources{CpuShares: shares(requests[v1.ResourceCPU])}
	if limited[v1.ResourceCPU] {
		out.CpuPeriod, out.CpuQuota = cpuPeriod, quota(limits[v1.ResourceCPU])
	}
	if q := limits[v1.ResourceMemory]; limited[v1.ResourceMemory] {
		out.MemoryLimitInBytes = q.Value()
	}
	return out
}
