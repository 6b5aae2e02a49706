package lifecycle

import (
	"fmt"
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Policy is the node's patience.
type Policy struct {
	// A container that ended is started again at once the first time, then after BackOffInitial, twice
	// that, and so on up to BackOffMax. One that ran for BackOffReset starts from the beginning. Failed
	// steps (an image pull, a sandbox) wait likewise, beginning with BackOffInitial.
	BackOffInitial, BackOffMax, BackOffReset time.Duration
}

// DefaultPolicy is Kubernetes'.
func DefaultPolicy() Policy {
	return Policy{BackOffInitial: 10 * time.Second, BackOffMax: 5 * time.Minute, BackOffReset: 10 * time.Minute}
}

// Spec is what is asked for. It does not change during a pod's life.
type Spec struct {
	Pod    *v1.Pod // defaults set
	Policy Policy
	HostIP string
}

// State is where an instance is.
type State int

const (
	Created State = iota
	Running
	Exited
	Unknown // the runtime can't tell
)

func (s State) String() string {
	return [...]string{"created", "running", "exited", "unknown"}[s]
}

// Sandbox is one sandbox of the pod.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	Stopped   bool // StopSandbox has succeeded
	CreatedAt time.Time
	IPs       []string
}

// Instance is one container as the runtime has it: the Attempt'th life of the container called Name.
type Instance struct {
	ID        string
	Name      string
	SandboxID string
	Attempt   uint32
	State     State
	// BackOff is how long its successor has to wait after its end. It is fixed when the instance is
	// created and kept in the runtime with it.
	BackOff                          time.Duration
	Image, ImageID                   string
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
}

func (i *Instance) living() bool { return i.State == Running || i.State == Unknown }

// Failure is the last failure of a step that was tried Count times in a row.
type Failure struct {
	Count   int
	At      time.Time
	Reason  string // a machine's word, as kubelet uses it: ErrImagePull, CreateContainerConfigError, …
	Message string
}

// Deletion is the wish that the pod end.
type Deletion struct {
	At    time.Time // when it was asked for; the earliest if it was asked for again
	Grace time.Duration
}

func (d *Deletion) deadline() time.Time { return d.At.Add(d.Grace) }

// Observed is all that is known of the pod. The caller owns it; Next only reads it.
type Observed struct {
	Created  time.Time // when the node took the pod
	Deletion *Deletion // nil: the pod shall live

	VolumesReady bool
	Sandboxes    []Sandbox
	Instances    []Instance
	// ImageReady holds, by container, 1 + the attempt for which its image has been made sure of; 0 is none.
	ImageReady map[string]uint32
	// Probes holds what the probes of an instance have told, by its ID.
	Probes map[string]*ProbeStates
	// Cleaned tells that CleanUp has succeeded.
	Cleaned bool

	InFlight map[string]bool    // by Action.Key
	Failures map[string]Failure // by Action.Key; taken away when the step succeeds
	// Stopping holds when instances that were asked to stop will have been killed, by ID.
	Stopping map[string]time.Time

	Status v1.PodStatus // what Next gave last
}

// Kind is what an action does.
type Kind string

const (
	// PrepareVolumes makes the pod's directories, volumes and files.
	PrepareVolumes Kind = "PrepareVolumes"
	// EnsureImage pulls Image as the container's policy asks, for the start of Attempt.
	EnsureImage Kind = "EnsureImage"
	// CreateSandbox runs a sandbox with that Attempt.
	CreateSandbox Kind = "CreateSandbox"
	// StartContainer creates Container in sandbox ID with that Attempt and BackOff, and starts it. With
	// InstanceID set the instance exists and only has to be started.
	StartContainer Kind = "StartContainer"
	// StopContainer asks instance ID to end within Grace and kills it then.
	StopContainer Kind = "StopContainer"
	// StopSandbox ends whatever runs in sandbox ID and gives its network back.
	StopSandbox Kind = "StopSandbox"
	// RemoveContainer removes instance ID and its log.
	RemoveContainer Kind = "RemoveContainer"
	// RemoveSandbox stops and removes sandbox ID and all of its containers.
	RemoveSandbox Kind = "RemoveSandbox"
	// Probe runs the container's probe of ProbeKind in instance ID.
	Probe Kind = "Probe"
	// CleanUp removes volumes, logs and records: all that is left of the pod.
	CleanUp Kind = "CleanUp"
)

// Action is one step. The caller begins it at once, beside whatever else is in flight.
type Action struct {
	Kind       Kind
	Container  string
	ID         string // of the sandbox or instance that it is about
	InstanceID string
	Attempt    uint32
	BackOff    time.Duration
	Image      string
	Grace      time.Duration
	ProbeKind  ProbeKind
	Reason     string // why, for people
}

// Key names the step: of one key only one action is in flight at a time, and failures are counted by it.
func (a Action) Key() string {
	switch a.Kind {
	case EnsureImage:
		return "image/" + a.Container
	case StartContainer:
		return "start/" + a.Container
	case StopContainer:
		if a.Grace == 0 {
			return "kill/" + a.ID
		}
		return "stop/" + a.ID
	case StopSandbox:
		return "stop-sandbox/" + a.ID
	case RemoveContainer:
		return "remove/" + a.ID
	case RemoveSandbox:
		return "remove-sandbox/" + a.ID
	case Probe:
		return fmt.Sprintf("probe/%s/%s", a.ProbeKind, a.ID)
	}
	return string(a.Kind)
}

// String is one line for transcripts and logs.
func (a Action) String() string {
	s := string(a.Kind)
	add := func(on bool, format string, v any) {
		if on {
			s += " " + fmt.Sprintf(format, v)
		}
	}
	add(a.Container != "", "%s", a.Container)
	add(a.Kind == StartContainer || a.Kind == CreateSandbox || a.Kind == EnsureImage, "attempt=%d", a.Attempt)
	add(a.ID != "", "%s", a.ID)
	add(a.InstanceID != "", "instance=%s", a.InstanceID)
	add(a.Image != "", "image=%s", a.Image)
	add(a.Kind == StartContainer, "backoff=%s", a.BackOff)
	add(a.Kind == StopContainer, "grace=%s", a.Grace)
	add(a.Kind == Probe, "%s", a.ProbeKind)
	add(a.Reason != "", "(%s)", a.Reason)
	return s
}

// Result is Next's answer.
type Result struct {
	Actions []Action
	// RequeueAt is when Next should be asked again though nothing has happened; zero: only when something has.
	RequeueAt time.Time
	Status    v1.PodStatus
	// Gone: nothing of the pod is left.
	Gone bool
}

// backOffAfter is what the wait after a failed step grows to.
func (p Policy) failureDelay(count int) time.Duration {
	d := p.BackOffInitial
	for ; count > 1 && d < p.BackOffMax; count-- {
		d *= 2
	}
	return min(d, p.BackOffMax)
}

// restart tells when the successor of an instance that has ended may start, and what that one's own
// successor will have to wait.
func (p Policy) restart(prev *Instance) (at time.Time, next time.Duration) {
	if prev.FinishedAt.Sub(prev.StartedAt) >= p.BackOffReset && !prev.StartedAt.IsZero() {
		return prev.FinishedAt, p.BackOffInitial
	}
	if prev.BackOff == 0 {
		return prev.FinishedAt, p.BackOffInitial
	}
	return prev.FinishedAt.Add(prev.BackOff), min(2*prev.BackOff, p.BackOffMax)
}

// newestSandbox returns the sandbox of the highest attempt, or nil.
func (o *Observed) newestSandbox() *Sandbox {
	var newest *Sandbox
	for i := range o.Sandboxes {
		if newest == nil || o.Sandboxes[i].Attempt > newest.Attempt {
			newest = &o.Sandboxes[i]
		}
	}
	return newest
}

// instances returns the instances of one container, newest first.
func (o *Observed) instances(name string) []*Instance {
	var list []*Instance
	for i := range o.Instances {
		if o.Instances[i].Name == name {
			list = append(list, &o.Instances[i])
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Attempt > list[j].Attempt })
	return list
}

// newest returns the container's newest instance, or nil.
func (o *Observed) newest(name string) *Instance {
	if list := o.instances(name); len(list) > 0 {
		return list[0]
	}
	return nil
}

// IsSidecar tells whether an init container is a sidecar: started in its turn, kept until the pod's end.
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}
