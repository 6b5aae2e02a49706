package lifecycle

import (
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// ended tells whether a pod that nobody deleted has run to its end: every app container has ended and
// none will be started again, or an init container has failed for good. A phase that says so is final:
// the runtime's records may be gone, after a reboot say.
func (n *next) ended() bool {
	if p := n.obs.Status.Phase; p == v1.PodSucceeded || p == v1.PodFailed {
		return true
	}
	if n.pod.RestartPolicy == v1.RestartPolicyAlways {
		return false
	}
	if n.initFailed() || n.cutOff() {
		return true
	}
	for i := range n.pod.Containers {
		in := n.obs.newest(n.pod.Containers[i].Name)
		if in == nil || in.State != Exited || n.pod.RestartPolicy == v1.RestartPolicyOnFailure && in.ExitCode != 0 {
			return false
		}
	}
	return true
}

// initFailed: with restartPolicy Never the first failure of an init container is the pod's.
func (n *next) initFailed() bool {
	if n.pod.RestartPolicy != v1.RestartPolicyNever {
		return false
	}
	for i := range n.pod.InitContainers {
		c := &n.pod.InitContainers[i]
		in := n.obs.newest(c.Name)
		if !IsSidecar(c) && in != nil && in.State == Exited && in.ExitCode != 0 {
			return true
		}
	}
	return false
}

// cutOff: with restartPolicy Never a pod whose sandbox ended after something had run in it is not begun
// anew.
func (n *next) cutOff() bool {
	s := n.obs.newestSandbox()
	return n.pod.RestartPolicy == v1.RestartPolicyNever && s != nil && !s.Ready && len(n.obs.Instances) > 0
}

// end stops what is left of a pod that has ended, and keeps its records and logs until it is deleted.
func (n *next) end() {
	if n.startsInFlight() {
		return
	}
	living := false
	for i := range n.obs.Instances {
		if in := &n.obs.Instances[i]; in.living() {
			n.stop(in, n.grace(), "the pod has ended")
			living = true
		}
	}
	if living {
		return
	}
	for i := range n.obs.Sandboxes {
		if s := &n.obs.Sandboxes[i]; !s.Stopped {
			n.do(Action{Kind: StopSandbox, ID: s.ID, Reason: "the pod has ended"})
		}
	}
}

// delete takes a pod away, whatever its state.
func (n *next) delete() {
	if n.stopAll() || n.startsInFlight() {
		return
	}
	for i := range n.obs.Sandboxes {
		n.do(Action{Kind: RemoveSandbox, ID: n.obs.Sandboxes[i].ID})
	}
	if len(n.obs.Sandboxes) > 0 {
		return
	}
	for i := range n.obs.Instances {
		n.do(Action{Kind: RemoveContainer, Container: n.obs.Instances[i].Name, ID: n.obs.Instances[i].ID})
	}
	if len(n.obs.Instances) > 0 {
		return
	}
	if !n.obs.Cleaned {
		n.do(Action{Kind: CleanUp})
		return
	}
	n.result.Gone = true
}

// stopAll asks what lives to end, app and init containers at once, then sidecars one by one from the
// last to the first, and tells whether something lives.
func (n *next) stopAll() bool {
	left := max(0, n.obs.Deletion.deadline().Sub(n.now))
	living := false
	for _, c := range allContainers(n.pod) {
		if IsSidecar(c) {
			continue
		}
		for _, in := range n.obs.instances(c.Name) {
			if in.living() {
				n.stop(in, left, "the pod is deleted")
				living = true
			}
		}
	}
	for i := len(n.pod.InitContainers) - 1; i >= 0 && !living; i-- {
		if !IsSidecar(&n.pod.InitContainers[i]) {
			continue
		}
		for _, in := range n.obs.instances(n.pod.InitContainers[i].Name) {
			if in.living() {
				n.stop(in, left, "the pod is deleted")
				living = true
			}
		}
	}
	return living || n.strangersLive(left)
}

// strangersLive stops containers of the pod's that the spec does not name.
func (n *next) strangersLive(left time.Duration) bool {
	known := map[string]bool{}
	for _, c := range allContainers(n.pod) {
		known[c.Name] = true
	}
	living := false
	for i := range n.obs.Instances {
		if in := &n.obs.Instances[i]; !known[in.Name] && in.living() {
			n.stop(in, left, "the pod is deleted")
			living = true
		}
	}
	return living
}

// startsInFlight: something may be about to appear that has to be taken away too.
func (n *next) startsInFlight() bool {
	for key := range n.obs.InFlight {
		if strings.HasPrefix(key, "start/") || key == string(CreateSandbox) || key == string(PrepareVolumes) {
			return true
		}
	}
	return false
}
