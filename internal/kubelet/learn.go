package kubelet

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
)

// What the runtime tells comes from three sides: results of the worker's own calls, events, and lists. They
// may overtake each other. So what is known only ever moves forward: a sandbox from ready to not ready, an
// instance from created through running to exited; and what was removed does not come back.

// learnSandbox takes in a sandbox's status. Only own calls and lists may add one (add), not events: one that is still
// being made is not ready for containers, whatever an event says.
func (w *worker) learnSandbox(s *runtimeapi.PodSandboxStatus, add bool) {
	if s == nil || w.removed[s.Id] {
		return
	}
	ready := s.State == runtimeapi.PodSandboxState_SANDBOX_READY
	for i := range w.obs.Sandboxes {
		if known := &w.obs.Sandboxes[i]; known.ID == s.Id {
			known.Ready = known.Ready && ready
			if ips := sandboxIPs(s); len(ips) > 0 {
				known.IPs = ips
			}
			return
		}
	}
	if add {
		w.obs.Sandboxes = append(w.obs.Sandboxes, lifecycle.Sandbox{
			ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), Ready: ready, CreatedAt: unixNano(s.CreatedAt), IPs: sandboxIPs(s)})
	}
}

func sandboxIPs(s *runtimeapi.PodSandboxStatus) []string {
	var ips []string
	if n := s.GetNetwork(); n != nil && n.Ip != "" {
		ips = append(ips, n.Ip)
		for _, more := range n.AdditionalIps {
			ips = append(ips, more.Ip)
		}
	}
	return ips
}

func unixNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// learnContainer takes in a container's status. adopted tells that it lived before this daemon did.
func (w *worker) learnContainer(s *runtimeapi.ContainerStatus, sandbox string, adopted bool) {
	if s == nil || w.removed[s.Id] {
		return
	}
	known := w.instance(s.Id)
	if known == nil {
		w.obs.Instances = append(w.obs.Instances, lifecycle.Instance{
			ID: s.Id, Name: s.GetMetadata().GetName(), Attempt: s.GetMetadata().GetAttempt(), SandboxID: sandbox,
			BackOff: criconfig.BackOff(s.Annotations), CreatedAt: unixNano(s.CreatedAt), State: lifecycle.Created,
		})
		known = &w.obs.Instances[len(w.obs.Instances)-1]
		w.ended[s.Id] = make(chan struct{})
	}
	if s.ImageId != "" {
		known.ImageID = s.ImageId
	} else if s.ImageRef != "" {
		known.ImageID = s.ImageRef
	}
	state := map[runtimeapi.ContainerState]lifecycle.State{
		runtimeapi.ContainerState_CONTAINER_CREATED: lifecycle.Created,
		runtimeapi.ContainerState_CONTAINER_RUNNING: lifecycle.Running,
		runtimeapi.ContainerState_CONTAINER_EXITED:  lifecycle.Exited,
		runtimeapi.ContainerState_CONTAINER_UNKNOWN: lifecycle.Unknown,
	}[s.State]
	if known.State == lifecycle.Exited || state == lifecycle.Created || state == known.State {
		return
	}
	before := known.State
	known.State = state
	known.StartedAt = unixNano(s.StartedAt)
	if before == lifecycle.Created && !adopted && !known.StartedAt.IsZero() {
		w.tellStarted(known)
	}
	if state == lifecycle.Exited {
		w.exited(known, s, adopted)
	}
}

// exited takes in the end of an instance.
func (w *worker) exited(i *lifecycle.Instance, s *runtimeapi.ContainerStatus, adopted bool) {
	i.FinishedAt, i.ExitCode, i.Reason, i.Message = unixNano(s.FinishedAt), s.ExitCode, s.Reason, s.Message
	if i.FinishedAt.IsZero() {
		i.FinishedAt = time.Now()
	}
	if m := w.terminationMessage(i); m != "" {
		i.Message = m
	}
	delete(w.obs.Probes, i.ID)
	delete(w.obs.Stopping, i.ID)
	if ch := w.ended[i.ID]; ch != nil {
		close(ch)
		delete(w.ended, i.ID)
	}
	if !adopted {
		w.tellExited(i)
	}
}

func (w *worker) instance(id string) *lifecycle.Instance {
	for i := range w.obs.Instances {
		if w.obs.Instances[i].ID == id {
			return &w.obs.Instances[i]
		}
	}
	return nil
}

// forgetContainer: the runtime has it no more.
func (w *worker) forgetContainer(id string) {
	w.removed[id] = true
	for i := range w.obs.Instances {
		if w.obs.Instances[i].ID == id {
			w.obs.Instances = append(w.obs.Instances[:i:i], w.obs.Instances[i+1:]...)
			break
		}
	}
	delete(w.obs.Probes, id)
	delete(w.obs.Stopping, id)
	if ch := w.ended[id]; ch != nil {
		close(ch)
		delete(w.ended, id)
	}
}

// forgetSandbox: the runtime has it no more, nor its containers.
func (w *worker) forgetSandbox(id string) {
	w.removed[id] = true
	for i := range w.obs.Sandboxes {
		if w.obs.Sandboxes[i].ID == id {
			w.obs.Sandboxes = append(w.obs.Sandboxes[:i:i], w.obs.Sandboxes[i+1:]...)
			break
		}
	}
	for _, in := range append([]lifecycle.Instance(nil), w.obs.Instances...) {
		if in.SandboxID == id {
			w.forgetContainer(in.ID)
		}
	}
}

// learnEvent takes in what an event tells.
func (w *worker) learnEvent(e *runtimeapi.ContainerEventResponse) {
	sandbox := e.GetPodSandboxStatus()
	w.learnSandbox(sandbox, false)
	known := false
	for i := range w.obs.Sandboxes {
		known = known || w.obs.Sandboxes[i].ID == sandbox.GetId()
	}
	if !known {
		return
	}
	for _, s := range e.ContainersStatuses {
		w.learnContainer(s, sandbox.Id, false)
	}
	if e.ContainerEventType != runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
		return
	}
	switch id := e.ContainerId; { // somebody else took it away; own calls report themselves
	case id == sandbox.Id && !w.obs.InFlight["remove-sandbox/"+id]:
		w.forgetSandbox(id)
	case w.instance(id) != nil && !w.obs.InFlight["remove/"+id]:
		w.forgetContainer(id)
	}
}

// listed is all that a list of the runtime says of one pod.
type listed struct {
	at         time.Time // when the list began
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers map[string][]*runtimeapi.ContainerStatus // by sandbox
}

// learnList takes in a list. What it does not hold is gone, unless it was made after the list began.
func (w *worker) learnList(l listed, adopt bool) {
	there := map[string]bool{}
	for _, s := range l.sandboxes {
		there[s.Id] = true
		w.learnSandbox(s, !w.obs.InFlight[string(lifecycle.CreateSandbox)]) // else the call's own result adds it
		for _, c := range l.containers[s.Id] {
			there[c.Id] = true
			w.learnContainer(c, s.Id, adopt)
		}
	}
	for _, s := range append([]lifecycle.Sandbox(nil), w.obs.Sandboxes...) {
		if !there[s.ID] && s.CreatedAt.Before(l.at) {
			w.forgetSandbox(s.ID)
		}
	}
	for _, i := range append([]lifecycle.Instance(nil), w.obs.Instances...) {
		if !there[i.ID] && i.CreatedAt.Before(l.at) && !w.obs.InFlight["start/"+i.Name] {
			w.forgetContainer(i.ID)
		}
	}
}

func (w *worker) event(t api.EventType) api.Event {
	return api.Event{Type: t, Namespace: w.space, Pod: w.podName, UID: w.uid}
}
