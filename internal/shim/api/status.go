package api

import "github.com/11f9778f/berth/internal/shim/api/containerd"

// Status is what a container does.
type Status int32

// The statuses of a container.
const (
	StatusUnknown Status = iota
	StatusCreated
	StatusRunning
	StatusPaused
	StatusStopped
)

// StatusOf translates a status of containerd's task API, whose numbers differ from ours.
func StatusOf(s containerd.Status) Status {
	switch s {
	case containerd.StatusCreated:
		return StatusCreated
	case containerd.StatusRunning:
		return StatusRunning
	case containerd.StatusPaused, containerd.StatusPausing:
		return StatusPaused
	case containerd.StatusStopped:
		return StatusStopped
	}
	return StatusUnknown
}
