package lifecycle

import (
	"fmt"
	"sort"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status is the pod's status as a kubelet would report it.
func (n *next) status() v1.PodStatus {
	s := v1.PodStatus{
		HostIP:    n.spec.HostIP,
		StartTime: &metav1.Time{Time: n.obs.Created},
		QOSClass:  QOSClass(n.pod),
	}
	if n.spec.HostIP != "" {
		s.HostIPs = []v1.HostIP{{IP: n.spec.HostIP}}
	}
	n.podIPs(&s)
	initsDone := true
	for i := range n.pod.InitContainers {
		c := &n.pod.InitContainers[i]
		cs := n.containerStatus(c, true, false)
		s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		if IsSidecar(c) {
			initsDone = initsDone && cs.Started != nil && *cs.Started
		} else {
			initsDone = initsDone && cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
		}
	}
	begun := n.anyAppBegun()
	for i := range n.pod.Containers {
		c := &n.pod.Containers[i]
		s.ContainerStatuses = append(s.ContainerStatuses, n.containerStatus(c, false, initsDone || begun))
	}
	s.Phase, s.Reason, s.Message = n.phase(&s, initsDone || begun)
	n.conditions(&s, initsDone || begun)
	return s
}

func (n *next) anyAppBegun() bool {
	for i := range n.pod.Containers {
		if n.obs.newest(n.pod.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func (n *next) podIPs(s *v1.PodStatus) {
	sandbox := n.obs.newestSandbox()
	if sandbox == nil || !sandbox.Ready {
		return
	}
	ips := sandbox.IPs
	if n.pod.HostNetwork && len(ips) == 0 && n.spec.HostIP != "" {
		ips = []string{n.spec.HostIP}
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
}

func (n *next) containerStatus(c *v1.Container, isInit, initsDone bool) v1.ContainerStatus {
	list := n.obs.instances(c.Name)
	if len(list) == 0 {
		// The records of a pod that has ended, or that is being taken away, may go before the pod does.
		if old := FindContainerStatus(&n.obs.Status, c.Name); old != nil && (n.ended() || n.obs.Deletion != nil) {
			return *old
		}
		no := false
		return v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no,
			State: v1.ContainerState{Waiting: n.waiting(c, initsDone)}}
	}
	newest := list[0]
	cs := v1.ContainerStatus{
		Name: c.Name, Image: c.Image, ImageID: newest.ImageID, ContainerID: ContainerID(newest),
		RestartCount: int32(newest.Attempt), Ready: n.obs.ready(c, newest) && (!isInit || IsSidecar(c)),
	}
	started := n.obs.started(c, newest)
	cs.Started = &started
	if len(list) > 1 && list[1].State == Exited {
		cs.LastTerminationState.Terminated = terminated(list[1])
	}
	switch newest.State {
	case Running, Unknown:
		cs.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.Time{Time: newest.StartedAt}}
	case Exited:
		if w := n.waitingToRestart(c, newest, isInit); w != nil {
			cs.State.Waiting = w
			cs.LastTerminationState.Terminated = terminated(newest)
		} else {
			cs.State.Terminated = terminated(newest)
		}
		cs.Ready = isInit && !IsSidecar(c) && newest.ExitCode == 0
	default:
		cs.State.Waiting = n.waiting(c, initsDone)
	}
	return cs
}

// FindContainerStatus returns the status of the container of that name, or nil.
func FindContainerStatus(s *v1.PodStatus, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// ContainerID is how a status names an instance.
func ContainerID(i *Instance) string { return "berth://" + i.ID }

func terminated(i *Instance) *v1.ContainerStateTerminated {
	reason := i.Reason
	if reason == "" {
		reason = "Error"
		if i.ExitCode == 0 {
			reason = "Completed"
		}
	}
	return &v1.ContainerStateTerminated{
		ExitCode: i.ExitCode, Reason: reason, Message: i.Message, ContainerID: ContainerID(i),
		StartedAt: metav1.Time{Time: i.StartedAt}, FinishedAt: metav1.Time{Time: i.FinishedAt},
	}
}

// waitingToRestart returns why an instance that has ended has no successor yet, or nil if it will have none
// or is about to.
func (n *next) waitingToRestart(c *v1.Container, i *Instance, isInit bool) *v1.ContainerStateWaiting {
	if n.obs.Deletion != nil || n.ended() {
		return nil
	}
	policy := n.pod.RestartPolicy
	if IsSidecar(c) {
		policy = v1.RestartPolicyAlways
	} else if isInit {
		if policy != v1.RestartPolicyNever {
			policy = v1.RestartPolicyOnFailure
		}
	}
	if policy == v1.RestartPolicyNever || policy == v1.RestartPolicyOnFailure && i.ExitCode == 0 {
		return nil
	}
	if w := n.failing(c); w != nil {
		return w
	}
	if at, _ := n.spec.Policy.restart(i); n.now.Before(at) {
		return &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff",
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", i.BackOff,
				c.Name, n.spec.Pod.Name, n.spec.Pod.Namespace, n.spec.Pod.UID)}
	}
	return nil
}

func (n *next) waiting(c *v1.Container, initsDone bool) *v1.ContainerStateWaiting {
	if w := n.failing(c); w != nil {
		return w
	}
	if !initsDone {
		return &v1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

// failing returns the failure that keeps a container from starting, or nil.
func (n *next) failing(c *v1.Container) *v1.ContainerStateWaiting {
	if f, ok := n.obs.Failures[string(PrepareVolumes)]; ok {
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if f, ok := n.obs.Failures[string(CreateSandbox)]; ok {
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	if f, ok := n.obs.Failures["image/"+c.Name]; ok {
		return n.imageFailure(c, f)
	}
	if f, ok := n.obs.Failures["start/"+c.Name]; ok {
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	return nil
}

// imageFailure is ErrImagePull for a moment after each try, and ImagePullBackOff for the rest of the wait.
func (n *next) imageFailure(c *v1.Container, f Failure) *v1.ContainerStateWaiting {
	shown := min(2*time.Second, n.delay(EnsureImage, f.Count)/2)
	if f.Reason != "ErrImagePull" || !n.wait(f.At.Add(shown)) {
		return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
	}
	return &v1.ContainerStateWaiting{Reason: "ImagePullBackOff",
		Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, f.Reason, f.Message)}
}

// phase follows kubelet's getPhase.
func (n *next) phase(s *v1.PodStatus, initsDone bool) (v1.PodPhase, string, string) {
	if old := n.obs.Status; old.Phase == v1.PodSucceeded || old.Phase == v1.PodFailed {
		return old.Phase, old.Reason, old.Message
	}
	if n.initFailed() && !n.anyLiving() {
		return v1.PodFailed, "", ""
	}
	var waiting, running, stopped, good int
	for i := range s.ContainerStatuses {
		cs := &s.ContainerStatuses[i]
		end := cs.State.Terminated
		if cs.State.Waiting != nil {
			end = cs.LastTerminationState.Terminated
		}
		switch {
		case cs.State.Running != nil:
			running++
		case end == nil:
			waiting++
		default:
			stopped++
			if end.ExitCode == 0 {
				good++
			}
		}
	}
	switch {
	case n.obs.Deletion == nil && n.cutOff() && stopped < len(s.ContainerStatuses):
		return v1.PodFailed, "SandboxLost", "the pod's sandbox ended before all of its containers had"
	case !initsDone || waiting > 0:
		return v1.PodPending, "", ""
	case running > 0 || n.anyLiving() || n.pod.RestartPolicy == v1.RestartPolicyAlways:
		return v1.PodRunning, "", ""
	case stopped == good:
		return v1.PodSucceeded, "", ""
	case n.pod.RestartPolicy == v1.RestartPolicyNever:
		return v1.PodFailed, "", ""
	}
	return v1.PodRunning, "", ""
}

// anyLiving: as long as a container lives, a sidecar say, the phase is not final.
func (n *next) anyLiving() bool {
	for i := range n.obs.Instances {
		if n.obs.Instances[i].living() {
			return true
		}
	}
	return false
}

func (n *next) conditions(s *v1.PodStatus, initsDone bool) {
	sandbox := n.obs.newestSandbox()
	n.condition(s, v1.PodReadyToStartContainers, sandbox != nil && sandbox.Ready, "", "")
	completed := s.Phase == v1.PodSucceeded
	if initsDone || completed {
		n.condition(s, v1.PodInitialized, true, "", "")
	} else {
		n.condition(s, v1.PodInitialized, false, "ContainersNotInitialized", "containers with incomplete status: "+unready(s.InitContainerStatuses))
	}
	list := append([]v1.ContainerStatus(nil), s.ContainerStatuses...)
	for i := range n.pod.InitContainers {
		if IsSidecar(&n.pod.InitContainers[i]) {
			list = append(list, s.InitContainerStatuses[i])
		}
	}
	names := unready(list)
	reason, message := "", ""
	switch {
	case completed:
		reason = "PodCompleted"
	case names != "[]":
		reason, message = "ContainersNotReady", "containers with unready status: "+names
	}
	ready := names == "[]" && !completed
	n.condition(s, v1.ContainersReady, ready, reason, message)
	n.condition(s, v1.PodReady, ready, reason, message)
	n.condition(s, v1.PodScheduled, true, "", "")
}

func unready(list []v1.ContainerStatus) string {
	var names []string
	for i := range list {
		if !list[i].Ready {
			names = append(names, list[i].Name)
		}
	}
	sort.Strings(names)
	return "[" + strings.Join(names, " ") + "]"
}

// condition adds one; the time of its last change is kept where it has not changed.
func (n *next) condition(s *v1.PodStatus, t v1.PodConditionType, on bool, reason, message string) {
	c := v1.PodCondition{Type: t, Status: v1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: metav1.Time{Time: n.now}}
	if on {
		c.Status = v1.ConditionTrue
	}
	if old := FindCondition(&n.obs.Status, t); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	s.Conditions = append(s.Conditions, c)
}

// FindCondition returns the status's condition of type t, or nil.
func FindCondition(s *v1.PodStatus, t v1.PodConditionType) *v1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// QOSClass is Guaranteed where every container has cpu and memory limits equal to its requests,
// BestEffort where none asks for anything, else Burstable.
func QOSClass(s *v1.PodSpec) v1.PodQOSClass {
	asks, all := false, true
	for _, c := range allContainers(s) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			limit, request := c.Resources.Limits[name], c.Resources.Requests[name]
			if !limit.IsZero() || !request.IsZero() {
				asks = true
			}
			if limit.IsZero() || limit.Cmp(request) != 0 {
				all = false
			}
		}
	}
	switch {
	case !asks:
		return v1.PodQOSBestEffort
	case all:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}
