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

// podResources are the limits of the pod's own cgroup.
func podResources(s *v1.PodSpec) *runtimeapi.LinuxContainerResources {
	cpu, cpuLimit, limited := podAmount(s, v1.ResourceCPU)
	out := &runtimeapi.LinuxContainerResources{CpuShares: shares(cpu)}
	if limited {
		out.CpuPeriod, out.CpuQuota = cpuPeriod, quota(cpuLimit)
	}
	if _, memory, limited := podAmount(s, v1.ResourceMemory); limited {
		out.MemoryLimitInBytes = memory.Value()
	}
	return out
}

// podAmount is what a pod asks for and may use of a resource, as PodRequests and PodLimits of k8s.io/component-helpers have
// it: the sum of its containers and sidecars, or what an init container has together with the sidecars before it where that
// is more. One container without a limit leaves the pod without.
func podAmount(s *v1.PodSpec, name v1.ResourceName) (request, limit resource.Quantity, limited bool) {
	limited = true
	of := func(c *v1.Container) (request, limit resource.Quantity) {
		limit = c.Resources.Limits[name].DeepCopy()
		limited = limited && !limit.IsZero()
		if q, asked := c.Resources.Requests[name]; asked {
			return q.DeepCopy(), limit
		}
		return limit.DeepCopy(), limit
	}
	var sum, sumLimit resource.Quantity
	for i := range s.InitContainers {
		r, l := of(&s.InitContainers[i])
		r.Add(sum)
		l.Add(sumLimit)
		if lifecycle.IsSidecar(&s.InitContainers[i]) {
			sum, sumLimit = r.DeepCopy(), l.DeepCopy()
		}
		request, limit = greater(request, r), greater(limit, l)
	}
	for i := range s.Containers {
		r, l := of(&s.Containers[i])
		sum.Add(r)
		sumLimit.Add(l)
	}
	return greater(request, sum), greater(limit, sumLimit), limited
}

func greater(a, b resource.Quantity) resource.Quantity {
	if a.Cmp(b) >= 0 {
		return a
	}
	return b
}
