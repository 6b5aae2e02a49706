package cri

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/runtime"
)

// baseLabels are on every metric, sorted, as the kubelet's own /metrics/cadvisor has them.
var baseLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// metric is one metric of cAdvisor's set (KEP-2371, "cAdvisor metrics"): its values for one cgroup, each with
// the values of the labels that it has beside baseLabels.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string
	// read returns nothing where the kernel does not tell.
	read func(m *measured) []sample
}

type sample struct {
	value  uint64
	labels []string
}

// measured is what metrics are made from. The network belongs to pods alone.
type measured struct {
	counters  *cgroup.Stats
	procs     runtime.ProcessUsage
	network   []runtime.InterfaceUsage
	disk      *runtime.DiskUsage
	resources runtime.Resources
	started   int64 // seconds since 1970
	seen      int64
}

func one(v uint64) []sample { return []sample{{value: v}} }

func limited(v uint64) []sample {
	if v == cgroup.Unlimited {
		return one(0) // as cAdvisor says it
	}
	return one(v)
}

// seconds of nanoseconds: a value of the CRI is a whole number.
func wholeSeconds(ns uint64) []sample { return one(ns / 1e9) }

func metrics() []metric {
	const counter, gauge = runtimeapi.MetricType_COUNTER, runtimeapi.MetricType_GAUGE
	out := []metric{
		{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", counter, []string{"cpu"},
			func(m *measured) []sample { return []sample{{m.counters.CPU.Usage / 1e9, []string{"total"}}} }},
		{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", counter, nil,
			func(m *measured) []sample { return wholeSeconds(m.counters.CPU.User) }},
		{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", counter, nil,
			func(m *measured) []sample { return wholeSeconds(m.counters.CPU.System) }},
		{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", counter, nil,
			func(m *measured) []sample { return one(m.counters.CPU.Periods) }},
		{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", counter, nil,
			func(m *measured) []sample { return one(m.counters.CPU.Throttled) }},
		{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled, in seconds.", counter, nil,
			func(m *measured) []sample { return wholeSeconds(m.counters.CPU.ThrottledTime) }},
		{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.Usage) }},
		{"container_memory_working_set_bytes", "Current working set in bytes.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.WorkingSet) }},
		{"container_memory_rss", "Size of RSS in bytes.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.RSS) }},
		{"container_memory_cache", "Number of bytes of page cache memory.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.Cache) }},
		{"container_memory_swap", "Container swap usage in bytes.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.Swap) }},
		{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes.", gauge, nil,
			func(m *measured) []sample { return one(m.counters.Memory.Peak) }},
		{"container_memory_failcnt", "Number of memory usage hits limits.", counter, nil,
			func(m *measured) []sample { return one(m.counters.Memory.FailCount) }},
		{"container_memory_failures_total", "Cumulative count of memory allocation failures.", counter, []string{"failure_type", "scope"}, memoryFailures},
		{"container_oom_events_total", "Count of out of memory events observed for the container.", counter, nil,
			func(m *measured) []sample { return one(m.counters.Memory.OOMKills) }},
		{"container_processes", "Number of processes running inside the container.", gauge, nil,
			func(m *measured) []sample { return one(m.procs.Processes) }},
		{"container_threads", "Number of threads running inside the container.", gauge, nil,
			func(m *measured) []sample { return one(m.procs.Threads) }},
		{"container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero.", gauge, nil,
			func(m *measured) []sample { return limited(m.counters.Pids.Limit) }},
		{"container_file_descriptors", "Number of open file descriptors for the container.", gauge, nil,
			func(m *measured) []sample { return one(m.procs.FileDescriptors) }},
		{"container_sockets", "Number of open sockets for the container.", gauge, nil,
			func(m *measured) []sample { return one(m.procs.Sockets) }},
		{"container_ulimits_soft", "Soft ulimit values for the container root process.", gauge, []string{"ulimit"}, ulimits},
		{"container_last_seen", "Last time a container was seen by the exporter.", gauge, nil,
			func(m *measured) []sample { return one(uint64(m.seen)) }},
		{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", gauge, nil,
			func(m *measured) []sample { return one(uint64(m.started)) }},
		{"container_spec_cpu_period", "CPU period of the container.", gauge, nil,
			func(m *measured) []sample { return given(m.resources.CPUPeriod) }},
		{"container_spec_cpu_quota", "CPU quota of the container.", gauge, nil,
			func(m *measured) []sample { return given(m.resources.CPUQuota) }},
		{"container_spec_cpu_shares", "CPU share of the container.", gauge, nil,
			func(m *measured) []sample { return given(m.resources.CPUShares) }},
		{"container_spec_memory_limit_bytes", "Memory limit for the container.", gauge, nil,
			func(m *measured) []sample { return limited(m.counters.Memory.Limit) }},
		{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", gauge, nil,
			func(m *measured) []sample { return limited(m.counters.Memory.SwapLimit) }},
		{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", gauge, []string{"device"}, disk},
		{"container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", gauge, []string{"device"}, diskLimit},
		{"container_blkio_device_usage_total", "Blkio device bytes usage.", counter, []string{"device", "major", "minor", "operation"}, blkio},
	}
	out = append(out, deviceMetrics()...)
	out = append(out, networkMetrics()...)
	return append(out, pressureMetrics()...)
}

// given leaves a limit out that is not set.
func given(v int64) []sample {
	if v <= 0 {
		return nil
	}
	return one(uint64(v))
}

func memoryFailures(m *measured) []sample {
	return []sample{
		{m.counters.Memory.PageFaults, []string{"pgfault", "container"}}, {m.counters.Memory.MajorPageFaults, []string{"pgmajfault", "container"}},
		{m.counters.Memory.PageFaults, []string{"pgfault", "hierarchy"}}, {m.counters.Memory.MajorPageFaults, []string{"pgmajfault", "hierarchy"}},
	}
}

func ulimits(m *measured) []sample {
	if m.procs.OpenFilesLimit == 0 {
		return nil
	}
	return []sample{{m.procs.OpenFilesLimit, []string{"max_open_files"}}}
}

func disk(m *measured) []sample {
	if m.disk == nil || m.disk.At.IsZero() {
		return nil
	}
	return []sample{{m.disk.Bytes, []string{""}}}
}

func diskLimit(m *measured) []sample {
	if m.disk == nil || m.disk.Limit == 0 {
		return nil
	}
	return []sample{{m.disk.Limit, []string{""}}}
}

func deviceName(d cgroup.DeviceIO) string { return fmt.Sprintf("/dev/block/%d:%d", d.Major, d.Minor) }

func blkio(m *measured) []sample {
	var out []sample
	for _, d := range m.counters.IO.Devices {
		at := func(op string) []string {
			return []string{deviceName(d), fmt.Sprint(d.Major), fmt.Sprint(d.Minor), op}
		}
		out = append(out, sample{d.ReadBytes, at("Read")}, sample{d.WriteBytes, at("Write")})
	}
	return out
}

// deviceMetrics are the same for each of four numbers of a block device.
func deviceMetrics() []metric {
	var out []metric
	for _, x := range []struct {
		name, help string
		of         func(cgroup.DeviceIO) uint64
	}{
		{"container_fs_reads_bytes_total", "Cumulative count of bytes read.", func(d cgroup.DeviceIO) uint64 { return d.ReadBytes }},
		{"container_fs_writes_bytes_total", "Cumulative count of bytes written.", func(d cgroup.DeviceIO) uint64 { return d.WriteBytes }},
		{"container_fs_reads_total", "Cumulative count of reads completed.", func(d cgroup.DeviceIO) uint64 { return d.ReadOps }},
		{"container_fs_writes_total", "Cumulative count of writes completed.", func(d cgroup.DeviceIO) uint64 { return d.WriteOps }},
	} {
		out = append(out, metric{x.name, x.help, runtimeapi.MetricType_COUNTER, []string{"device"}, func(m *measured) []sample {
			var s []sample
			for _, d := range m.counters.IO.Devices {
				s = append(s, sample{x.of(d), []string{deviceName(d)}})
			}
			return s
		}})
	}
	return out
}

func networkMetrics() []metric {
	var out []metric
	for _, x := range []struct {
		name, help string
		of         func(runtime.InterfaceUsage) uint64
	}{
		{"container_network_receive_bytes_total", "Cumulative count of bytes received.", func(u runtime.InterfaceUsage) uint64 { return u.RxBytes }},
		{"container_network_receive_packets_total", "Cumulative count of packets received.", func(u runtime.InterfaceUsage) uint64 { return u.RxPackets }},
		{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving.", func(u runtime.InterfaceUsage) uint64 { return u.RxDropped }},
		{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", func(u runtime.InterfaceUsage) uint64 { return u.RxErrors }},
		{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", func(u runtime.InterfaceUsage) uint64 { return u.TxBytes }},
		{"container_network_transmit_packets_total", "Cumulative count of packets transmitted.", func(u runtime.InterfaceUsage) uint64 { return u.TxPackets }},
		{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting.", func(u runtime.InterfaceUsage) uint64 { return u.TxDropped }},
		{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting.", func(u runtime.InterfaceUsage) uint64 { return u.TxErrors }},
	} {
		out = append(out, metric{x.name, x.help, runtimeapi.MetricType_COUNTER, []string{"interface"}, func(m *measured) []sample {
			var s []sample
			for _, u := range m.network {
				s = append(s, sample{x.of(u), []string{u.Name}})
			}
			return s
		}})
	}
	return out
}

func pressureMetrics() []metric {
	var out []metric
	for _, x := range []struct {
		resource string
		of       func(*cgroup.Stats) *cgroup.Pressure
	}{
		{"cpu", func(s *cgroup.Stats) *cgroup.Pressure { return s.CPU.Pressure }},
		{"memory", func(s *cgroup.Stats) *cgroup.Pressure { return s.Memory.Pressure }},
		{"io", func(s *cgroup.Stats) *cgroup.Pressure { return s.IO.Pressure }},
	} {
		for _, y := range []struct {
			name, help string
			of         func(*cgroup.Pressure) uint64
		}{
			{"stalled", "Total time duration no tasks in the container could make progress due to %s congestion.", func(p *cgroup.Pressure) uint64 { return p.Full.Total }},
			{"waiting", "Total time duration tasks in the container have waited due to %s congestion.", func(p *cgroup.Pressure) uint64 { return p.Some.Total }},
		} {
			out = append(out, metric{
				"container_pressure_" + x.resource + "_" + y.name + "_seconds_total", fmt.Sprintf(y.help, x.resource), runtimeapi.MetricType_COUNTER, nil,
				func(m *measured) []sample {
					if p := x.of(m.counters); p != nil {
						return one(y.of(p) / 1e6)
					}
					return nil
				},
			})
		}
	}
	return out
}

// ListMetricDescriptors names the metrics of ListPodSandboxMetrics; the list never changes.
func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	resp := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range metrics() {
		resp.Descriptors = append(resp.Descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: append(append([]string(nil), baseLabels...), m.labels...),
		})
	}
	return resp, nil
}

// ListPodSandboxMetrics reads cAdvisor's metrics of all ready pods and their running containers.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	resp := &runtimeapi.ListPodSandboxMetricsResponse{}
	set := metrics()
	for _, pod := range s.rt.AllSandboxCounters(ctx) {
		sb := pod.Sandbox
		m := &measured{
			counters: pod.Counters, procs: pod.Processes, network: pod.Network,
			started: sb.CreatedAt.Unix(), seen: pod.Counters.At.Unix(),
		}
		if sb.Spec.Resources != nil {
			m.resources = *sb.Spec.Resources
		}
		out := &runtimeapi.PodSandboxMetrics{
			PodSandboxId: sb.ID, Metrics: render(set, m, []string{"POD", sb.CgroupPath, "", sb.ID, sb.Spec.Namespace, sb.Spec.Name}),
		}
		for _, c := range pod.Containers {
			st := c.Container
			m := &measured{
				counters: c.Counters, procs: c.Processes, disk: &c.Disk, resources: st.Spec.Resources,
				started: st.StartedAt.Unix(), seen: c.Counters.At.Unix(),
			}
			out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{
				ContainerId: st.ID,
				Metrics: render(set, m, []string{
					st.Spec.Name, st.CgroupPath, firstOf(st.Spec.UserImage, st.Spec.Image), st.ID, sb.Spec.Namespace, sb.Spec.Name,
				}),
			})
		}
		resp.PodMetrics = append(resp.PodMetrics, out)
	}
	return resp, nil
}

func render(set []metric, m *measured, base []string) []*runtimeapi.Metric {
	var out []*runtimeapi.Metric
	for _, d := range set {
		for _, v := range d.read(m) {
			out = append(out, &runtimeapi.Metric{
				Name: d.name, MetricType: d.kind, Value: number(v.value),
				LabelValues: append(append([]string(nil), base...), v.labels...),
			})
		}
	}
	return out
}
