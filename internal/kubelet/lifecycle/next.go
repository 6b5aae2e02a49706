package lifecycle

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Next says what to do now, when to ask again, and what the pod's status is.
func Next(spec *Spec, obs *Observed, now time.Time) Result {
	n := &next{spec: spec, pod: &spec.Pod.Spec, obs: obs, now: now}
	switch {
	case obs.Deletion != nil:
		n.delete()
	case n.ended():
		n.end()
	default:
		n.live()
	}
	n.result.Status = n.status()
	return n.result
}

// next is one call of Next: its input, and its answer as it grows.
type next struct {
	spec   *Spec
	pod    *v1.PodSpec
	obs    *Observed
	now    time.Time
	result Result
	asked  map[string]bool // keys of result.Actions
}

// do asks for an action, unless it is in flight or has failed a short while ago.
func (n *next) do(a Action) {
	key := a.Key()
	if n.obs.InFlight[key] {
		return
	}
	if f, failed := n.obs.Failures[key]; failed && !n.wait(f.At.Add(n.delay(a.Kind, f.Count))) {
		return
	}
	if n.asked == nil {
		n.asked = map[string]bool{}
	}
	if !n.asked[key] {
		n.asked[key] = true
		n.result.Actions = append(n.result.Actions, a)
	}
}

// delay is the wait after a failure. Steps of the end are tried again soon: they hold things back.
func (n *next) delay(k Kind, count int) time.Duration {
	p := n.spec.Policy
	switch k {
	case StopContainer, StopSandbox, RemoveContainer, RemoveSandbox, CleanUp:
		p.BackOffInitial, p.BackOffMax = p.BackOffInitial/20, p.BackOffInitial*3
	}
	return p.failureDelay(count)
}

// wait tells whether the time t has come; if not, Next is asked again then.
func (n *next) wait(t time.Time) bool {
	if !n.now.Before(t) {
		return true
	}
	if n.result.RequeueAt.IsZero() || t.Before(n.result.RequeueAt) {
		n.result.RequeueAt = t
	}
	return false
}

func (n *next) grace() time.Duration {
	if s := n.pod.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// killMargin is how long after its time an instance that was asked to stop is left to the runtime, whose
// business the kill is.
const killMargin = 2 * time.Second

// stop asks a living instance to end within grace. One that was asked before is killed when it shall end sooner
// now, or when it should have ended and has not.
func (n *next) stop(i *Instance, grace time.Duration, reason string) {
	if !i.living() {
		return
	}
	deadline := n.now.Add(grace)
	killAt, asked := n.obs.Stopping[i.ID]
	if asked && !deadline.Before(killAt) {
		deadline = killAt.Add(killMargin)
	}
	if !deadline.After(n.now) {
		n.do(Action{Kind: StopContainer, Container: i.Name, ID: i.ID, Reason: reason})
		return
	}
	n.wait(deadline)
	if !asked {
		n.do(Action{Kind: StopContainer, Container: i.Name, ID: i.ID, Grace: grace, Reason: reason})
	}
}

// live drives a pod that shall run.
func (n *next) live() {
	n.tidy()
	if !n.obs.VolumesReady {
		n.do(Action{Kind: PrepareVolumes})
	}
	sandbox := n.sandbox()
	initsDone := n.inits(sandbox)
	for i := range n.pod.Containers {
		c := &n.pod.Containers[i]
		if n.obs.newest(c.Name) == nil {
			n.image(c, 0) // pulled early, beside everything else
		}
		if initsDone {
			n.container(c, sandbox, n.pod.RestartPolicy)
		}
	}
}

// sandbox returns the sandbox that containers may start in, or nil and asks for what is missing to have one.
func (n *next) sandbox() *Sandbox {
	newest := n.obs.newestSandbox()
	if newest != nil && newest.Ready {
		return newest
	}
	if newest != nil && (!newest.Stopped || n.livingIn(newest.ID)) {
		n.do(Action{Kind: StopSandbox, ID: newest.ID, Reason: "the sandbox ended"})
		return nil
	}
	attempt := uint32(0)
	if newest != nil {
		attempt = newest.Attempt + 1
	}
	n.do(Action{Kind: CreateSandbox, Attempt: attempt})
	return nil
}

func (n *next) livingIn(sandbox string) bool {
	for i := range n.obs.Instances {
		if in := &n.obs.Instances[i]; in.SandboxID == sandbox && in.living() {
			return true
		}
	}
	return false
}

// inits drives the init containers in order and tells whether app containers may start.
func (n *next) inits(sandbox *Sandbox) bool {
	done := true
	for i := range n.pod.InitContainers {
		c := &n.pod.InitContainers[i]
		if n.obs.newest(c.Name) == nil {
			n.image(c, 0)
		}
		if !done || sandbox == nil {
			done = false
			continue
		}
		switch {
		case IsSidecar(c):
			n.container(c, sandbox, v1.RestartPolicyAlways)
			done = n.obs.started(c, n.current(c, sandbox)) || n.appsBegun(sandbox)
		case !n.initDone(c, sandbox):
			n.container(c, sandbox, n.initPolicy(c, sandbox))
			done = false
		}
	}
	return done && sandbox != nil
}

// initPolicy: an init container that failed is tried again, unless the pod is one that never does. In a
// new sandbox all of them run anew.
func (n *next) initPolicy(c *v1.Container, sandbox *Sandbox) v1.RestartPolicy {
	if n.current(c, sandbox) == nil {
		return v1.RestartPolicyAlways
	}
	if n.pod.RestartPolicy == v1.RestartPolicyNever {
		return v1.RestartPolicyNever
	}
	return v1.RestartPolicyOnFailure
}

// initDone tells whether an init container has ended well in this sandbox. Where an app container has
// been made in it, it must have, though its record may be gone.
func (n *next) initDone(c *v1.Container, sandbox *Sandbox) bool {
	i := n.current(c, sandbox)
	return i != nil && i.State == Exited && i.ExitCode == 0 || n.appsBegun(sandbox)
}

func (n *next) appsBegun(sandbox *Sandbox) bool {
	for i := range n.pod.Containers {
		if n.current(&n.pod.Containers[i], sandbox) != nil {
			return true
		}
	}
	return false
}

// current returns the container's newest instance if it is one of this sandbox.
func (n *next) current(c *v1.Container, sandbox *Sandbox) *Instance {
	if i := n.obs.newest(c.Name); i != nil && sandbox != nil && i.SandboxID == sandbox.ID {
		return i
	}
	return nil
}

// container drives one container in a sandbox that is ready.
func (n *next) container(c *v1.Container, sandbox *Sandbox, policy v1.RestartPolicy) {
	newest := n.obs.newest(c.Name)
	if newest != nil && newest.SandboxID == sandbox.ID {
		switch newest.State {
		case Unknown:
			n.stop(newest, n.grace(), "its state is unknown")
			return
		case Running:
			if at, stopping := n.obs.Stopping[newest.ID]; stopping {
				n.stop(newest, at.Sub(n.now), "its time is up")
			} else {
				n.probes(c, newest)
			}
			return
		case Created:
			n.start(c, sandbox, newest)
			return
		}
	}
	if newest != nil && !restarts(policy, newest, sandbox) {
		return
	}
	n.start(c, sandbox, newest)
}

// restarts tells whether an instance that has ended gets a successor. One of an earlier sandbox that was
// cut off gets one in any case, save one that had ended well where only failures are repeated.
func restarts(policy v1.RestartPolicy, i *Instance, sandbox *Sandbox) bool {
	switch policy {
	case v1.RestartPolicyAlways:
		return true
	case v1.RestartPolicyOnFailure:
		return i.ExitCode != 0 || i.SandboxID != sandbox.ID && i.State != Exited
	}
	return false
}

// start starts the container's next instance, or the one that was created and never started, once its
// image and its time have come.
func (n *next) start(c *v1.Container, sandbox *Sandbox, prev *Instance) {
	a := Action{Kind: StartContainer, Container: c.Name, ID: sandbox.ID}
	switch {
	case prev == nil:
	case prev.State == Created && prev.SandboxID == sandbox.ID:
		a.Attempt, a.BackOff, a.InstanceID = prev.Attempt, prev.BackOff, prev.ID
		n.do(a)
		return
	default:
		a.Attempt = prev.Attempt + 1
		at, next := n.spec.Policy.restart(prev)
		a.BackOff = next
		if prev.State == Exited && !n.wait(at) {
			return
		}
	}
	if n.obs.InFlight[a.Key()] || !n.image(c, a.Attempt) || !n.obs.VolumesReady {
		return
	}
	n.do(a)
}

// image makes sure of the container's image for the start of attempt, and tells whether that is done.
func (n *next) image(c *v1.Container, attempt uint32) bool {
	if n.obs.ImageReady[c.Name] >= attempt+1 {
		return true
	}
	n.do(Action{Kind: EnsureImage, Container: c.Name, Attempt: attempt, Image: c.Image})
	return false
}

// tidy removes what nobody will ask for again: instances before the last two of a container, and old
// sandboxes once none of their instances is kept.
func (n *next) tidy() {
	newest := n.obs.newestSandbox()
	kept := map[string]bool{}
	for _, c := range allContainers(n.pod) {
		for age, i := range n.obs.instances(c.Name) {
			if age < 2 || i.living() {
				kept[i.SandboxID] = true
			} else if newest != nil && i.SandboxID == newest.ID {
				n.do(Action{Kind: RemoveContainer, Container: i.Name, ID: i.ID})
			}
		}
	}
	for i := range n.obs.Sandboxes {
		if s := &n.obs.Sandboxes[i]; newest != nil && s.ID != newest.ID && !kept[s.ID] {
			n.do(Action{Kind: RemoveSandbox, ID: s.ID})
		}
	}
}

func allContainers(s *v1.PodSpec) []*v1.Container {
	var list []*v1.Container
	for i := range s.InitContainers {
		list = append(list, &s.InitContainers[i])
	}
	for i := range s.Containers {
		list = append(list, &s.Containers[i])
	}
	return list
}
