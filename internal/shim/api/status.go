package api

import tasktypes "github.com/containerd/containerd/api/types/task"

// TaskStopped is the status of a task that has ended.
const TaskStopped = tasktypes.Status_STOPPED

// StatusOf translates a status of containerd's task API, whose numbers differ from ours.
func StatusOf(s tasktypes.Status) Status {
	switch s {
	case tasktypes.Status_CREATED:
		return Status_STATUS_CREATED
	case tasktypes.Status_RUNNING:
		return Status_STATUS_RUNNING
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		return Status_STATUS_PAUSED
	case tasktypes.Status_STOPPED:
		return Status_STATUS_STOPPED
	}
	return Status_STATUS_UNKNOWN
}
