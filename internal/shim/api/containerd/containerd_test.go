package containerd_test

import (
	"testing"

	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	bootstrapv1 "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	eventsv1 "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"

	. "github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire/wiretest"
)

func pairs() []wiretest.Pair {
	of := []wiretest.Pair{
		wiretest.Of[CreateTaskRequest](&taskv3.CreateTaskRequest{}), wiretest.Of[CreateTaskRequest](&taskv2.CreateTaskRequest{}),
		wiretest.Of[CreateTaskResponse](&taskv3.CreateTaskResponse{}), wiretest.Of[CreateTaskResponse](&taskv2.CreateTaskResponse{}),
		wiretest.Of[DeleteRequest](&taskv3.DeleteRequest{}), wiretest.Of[DeleteRequest](&taskv2.DeleteRequest{}),
		wiretest.Of[DeleteResponse](&taskv3.DeleteResponse{}), wiretest.Of[DeleteResponse](&taskv2.DeleteResponse{}),
		wiretest.Of[ExecProcessRequest](&taskv3.ExecProcessRequest{}), wiretest.Of[ExecProcessRequest](&taskv2.ExecProcessRequest{}),
		wiretest.Of[ResizePtyRequest](&taskv3.ResizePtyRequest{}), wiretest.Of[ResizePtyRequest](&taskv2.ResizePtyRequest{}),
		wiretest.Of[StateRequest](&taskv3.StateRequest{}), wiretest.Of[StateRequest](&taskv2.StateRequest{}),
		wiretest.Of[StateResponse](&taskv3.StateResponse{}), wiretest.Of[StateResponse](&taskv2.StateResponse{}),
		wiretest.Of[KillRequest](&taskv3.KillRequest{}), wiretest.Of[KillRequest](&taskv2.KillRequest{}),
		wiretest.Of[CloseIORequest](&taskv3.CloseIORequest{}), wiretest.Of[CloseIORequest](&taskv2.CloseIORequest{}),
		wiretest.Of[PidsRequest](&taskv3.PidsRequest{}), wiretest.Of[PidsResponse](&taskv3.PidsResponse{}),
		wiretest.Of[PidsRequest](&taskv2.PidsRequest{}), wiretest.Of[PidsResponse](&taskv2.PidsResponse{}),
		wiretest.Of[CheckpointTaskRequest](&taskv3.CheckpointTaskRequest{}), wiretest.Of[CheckpointTaskRequest](&taskv2.CheckpointTaskRequest{}),
		wiretest.Of[UpdateTaskRequest](&taskv3.UpdateTaskRequest{}), wiretest.Of[UpdateTaskRequest](&taskv2.UpdateTaskRequest{}),
		wiretest.Of[StartRequest](&taskv3.StartRequest{}), wiretest.Of[StartResponse](&taskv3.StartResponse{}),
		wiretest.Of[StartRequest](&taskv2.StartRequest{}), wiretest.Of[StartResponse](&taskv2.StartResponse{}),
		wiretest.Of[WaitRequest](&taskv3.WaitRequest{}), wiretest.Of[WaitResponse](&taskv3.WaitResponse{}),
		wiretest.Of[WaitRequest](&taskv2.WaitRequest{}), wiretest.Of[WaitResponse](&taskv2.WaitResponse{}),
		wiretest.Of[StatsRequest](&taskv3.StatsRequest{}), wiretest.Of[StatsResponse](&taskv3.StatsResponse{}),
		wiretest.Of[StatsRequest](&taskv2.StatsRequest{}), wiretest.Of[StatsResponse](&taskv2.StatsResponse{}),
		wiretest.Of[ConnectRequest](&taskv3.ConnectRequest{}), wiretest.Of[ConnectResponse](&taskv3.ConnectResponse{}),
		wiretest.Of[ConnectRequest](&taskv2.ConnectRequest{}), wiretest.Of[ConnectResponse](&taskv2.ConnectResponse{}),
		wiretest.Of[ShutdownRequest](&taskv3.ShutdownRequest{}), wiretest.Of[ShutdownRequest](&taskv2.ShutdownRequest{}),
		wiretest.Of[PauseRequest](&taskv3.PauseRequest{}), wiretest.Of[ResumeRequest](&taskv3.ResumeRequest{}),
		wiretest.Of[PauseRequest](&taskv2.PauseRequest{}), wiretest.Of[ResumeRequest](&taskv2.ResumeRequest{}),
	}
	return append(append(of, sandboxPairs()...), otherPairs()...)
}

func sandboxPairs() []wiretest.Pair {
	return []wiretest.Pair{
		wiretest.Of[CreateSandboxRequest](&sandboxv1.CreateSandboxRequest{}), wiretest.Of[CreateSandboxResponse](&sandboxv1.CreateSandboxResponse{}),
		wiretest.Of[StartSandboxRequest](&sandboxv1.StartSandboxRequest{}), wiretest.Of[StartSandboxResponse](&sandboxv1.StartSandboxResponse{}),
		wiretest.Of[PlatformRequest](&sandboxv1.PlatformRequest{}), wiretest.Of[PlatformResponse](&sandboxv1.PlatformResponse{}),
		wiretest.Of[StopSandboxRequest](&sandboxv1.StopSandboxRequest{}), wiretest.Of[StopSandboxResponse](&sandboxv1.StopSandboxResponse{}),
		wiretest.Of[UpdateSandboxRequest](&sandboxv1.UpdateSandboxRequest{}, "resources", "annotations", "sandbox", "fields"),
		wiretest.Of[UpdateSandboxResponse](&sandboxv1.UpdateSandboxResponse{}),
		wiretest.Of[WaitSandboxRequest](&sandboxv1.WaitSandboxRequest{}), wiretest.Of[WaitSandboxResponse](&sandboxv1.WaitSandboxResponse{}),
		wiretest.Of[SandboxStatusRequest](&sandboxv1.SandboxStatusRequest{}), wiretest.Of[SandboxStatusResponse](&sandboxv1.SandboxStatusResponse{}),
		wiretest.Of[PingRequest](&sandboxv1.PingRequest{}), wiretest.Of[PingResponse](&sandboxv1.PingResponse{}),
		wiretest.Of[ShutdownSandboxRequest](&sandboxv1.ShutdownSandboxRequest{}),
		wiretest.Of[ShutdownSandboxResponse](&sandboxv1.ShutdownSandboxResponse{}),
		wiretest.Of[SandboxMetricsRequest](&sandboxv1.SandboxMetricsRequest{}),
		wiretest.Of[SandboxMetricsResponse](&sandboxv1.SandboxMetricsResponse{}, "metrics"),
	}
}

func otherPairs() []wiretest.Pair {
	return []wiretest.Pair{
		wiretest.Of[ForwardRequest](&eventsv1.ForwardRequest{}), wiretest.Of[Envelope](&types.Envelope{}),
		wiretest.Of[TaskCreate](&events.TaskCreate{}), wiretest.Of[TaskStart](&events.TaskStart{}), wiretest.Of[TaskDelete](&events.TaskDelete{}),
		wiretest.Of[TaskExit](&events.TaskExit{}), wiretest.Of[TaskExecAdded](&events.TaskExecAdded{}),
		wiretest.Of[TaskExecStarted](&events.TaskExecStarted{}), wiretest.Of[TaskPaused](&events.TaskPaused{}),
		wiretest.Of[TaskResumed](&events.TaskResumed{}), wiretest.Of[TaskCheckpointed](&events.TaskCheckpointed{}),
		wiretest.Of[RuncOptions](&runcoptions.Options{}), wiretest.Of[RuncCheckpointOptions](&runcoptions.CheckpointOptions{}),
		wiretest.Of[GenericOptions](&runtimeoptions.Options{}), wiretest.Of[RuntimeInfo](&types.RuntimeInfo{}),
		wiretest.Of[MetricsV1](&stats1.Metrics{}, "hugetlb", "rdma", "network", "cgroup_stats", "per_cpu", "oom_kill_disable", "under_oom",
			"rss_huge", "mapped_file", "dirty", "writeback", "pg_pg_in", "pg_pg_out", "inactive_anon", "active_anon", "active_file", "unevictable",
			"hierarchical_swap_limit", "total_rss_huge", "total_mapped_file", "total_dirty", "total_writeback", "total_pg_pg_in",
			"total_pg_pg_out", "total_inactive_anon", "total_active_anon", "total_active_file", "total_unevictable", "kernel_tcp",
			"io_queued_recursive", "io_service_time_recursive", "io_wait_time_recursive", "io_merged_recursive", "io_time_recursive",
			"sectors_recursive"),
		wiretest.Of[MetricsV2](&stats2.Metrics{}, "rdma", "hugetlb", "network", "nr_bursts", "burst_usec", "low", "high", "oom", "oom_group_kill",
			"kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback", "anon_thp", "inactive_anon", "active_anon",
			"active_file", "unevictable", "slab_reclaimable", "slab_unreclaimable", "workingset_refault", "workingset_activate",
			"workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree", "pglazyfreed",
			"thp_fault_alloc", "thp_collapse_alloc", "swap_max_usage"),
	}
}

// BootstrapParams' socket_dir is optional and may be empty, which is the same to Berth; TaskOOM has an addition.
func TestMessages(t *testing.T) {
	wiretest.Compare(t, pairs()...)
	wiretest.Compare(t, wiretest.Of[BootstrapParams](&bootstrapv1.BootstrapParams{}), wiretest.Of[TaskOOM](&events.TaskOOM{}))
}

func FuzzMessages(f *testing.F) { wiretest.Fuzz(f, pairs()...) }
