package api

import (
	"context"
	"io"
	"time"

	v1 "k8s.io/api/core/v1"
)

// MaxManifest is the largest body that POST /manifests takes, in bytes.
const MaxManifest = 4 << 20

// EventType says what an Event tells.
type EventType string

const (
	// PodAdded: the node has taken the pod. Status is set.
	PodAdded EventType = "PodAdded"
	// PodChanged: phase, a condition or a container's state changed. Status is set.
	PodChanged EventType = "PodChanged"
	// PodReady: the Ready condition became true. HostPorts and Status are set.
	PodReady EventType = "PodReady"
	// PodRemoved: nothing of the pod is left on the node.
	PodRemoved EventType = "PodRemoved"
	// PodNetwork: the pod's sandbox runs. PodIP and HostPorts are set.
	PodNetwork EventType = "PodNetwork"
	// ContainerStarted and ContainerExited: Container and Attempt are set; ExitCode, Reason and
	// Message too for an exit.
	ContainerStarted EventType = "ContainerStarted"
	ContainerExited  EventType = "ContainerExited"
	// ImagePulling, ImageProgress, ImagePulled: Image is set, and Progress for ImageProgress.
	ImagePulling  EventType = "ImagePulling"
	ImageProgress EventType = "ImageProgress"
	ImagePulled   EventType = "ImagePulled"
	// Warning: a step failed and will be tried again. Reason is a machine's word (ErrImagePull,
	// CreatePodSandboxError, CreateContainerConfigError, …), Message a sentence for the user.
	Warning EventType = "Warning"
	// Gap: the reader was too slow or came too late: Missed events are gone from the ring.
	Gap EventType = "Gap"
)

// HostPort is a port of the host that leads to a container.
type HostPort struct {
	HostIP        string `json:"hostIP,omitempty"` // "" means every address
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	Container     string `json:"container"`
	Name          string `json:"name,omitempty"`
}

// Progress is how far an image pull is, in bytes. Total is 0 while it is unknown.
type Progress struct {
	Current int64  `json:"current"`
	Total   int64  `json:"total"`
	Detail  string `json:"detail,omitempty"` // such as "8 layers, 3 done"
}

// Event is one change on the node. Seq grows by one from event to event and never goes back, also
// across restarts of the daemon (where it jumps).
type Event struct {
	Seq       uint64        `json:"seq"`
	Time      time.Time     `json:"time"`
	Type      EventType     `json:"type"`
	Namespace string        `json:"namespace,omitempty"`
	Pod       string        `json:"pod,omitempty"`
	UID       string        `json:"uid,omitempty"`
	Container string        `json:"container,omitempty"`
	Attempt   uint32        `json:"attempt,omitempty"`
	Init      bool          `json:"init,omitempty"`
	Image     string        `json:"image,omitempty"`
	Progress  *Progress     `json:"progress,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Message   string        `json:"message,omitempty"`
	ExitCode  *int32        `json:"exitCode,omitempty"`
	PodIP     string        `json:"podIP,omitempty"`
	HostPorts []HostPort    `json:"hostPorts,omitempty"`
	Status    *v1.PodStatus `json:"status,omitempty"`
	Missed    uint64        `json:"missed,omitempty"`
}

// LogOptions is what of a container's log is wanted.
type LogOptions struct {
	Follow     bool // go on until the container instance has ended and all of its output is read
	Previous   bool // the instance before the present one
	Timestamps bool // an RFC 3339 time in front of each line
	TailLines  *int64
	Since      time.Time // zero: from the start
	LimitBytes *int64
}

// Node is what the server serves. Errors that are apierrors.APIStatus decide the HTTP code.
type Node interface {
	// Apply takes pods and the ConfigMaps and Secrets that they use, and persists them before it returns.
	Apply(ctx context.Context, manifest []byte) ([]*v1.Pod, error)
	Pods() []*v1.Pod
	Pod(namespace, name string) (*v1.Pod, error)
	// Delete persists the wish to delete and returns; grace nil means the pod's own.
	Delete(ctx context.Context, namespace, name string, grace *int64) (*v1.Pod, error)
	// Events calls fn for each event after since until fn or ctx ends it. since 0 means: everything that the ring holds.
	Events(ctx context.Context, since uint64, fn func(Event) error) error
	Logs(ctx context.Context, namespace, name, container string, o LogOptions, stdout, stderr io.Writer) error
	// Shutdown asks the daemon to end.
	Shutdown(ifIdle bool) error
}
