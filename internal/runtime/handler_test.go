package runtime

import "testing"

// A check of the node must know the cgroups of containers that an older release has made: it removes what is nobody's.
func TestContainerOf(t *testing.T) {
	id := newID()
	for _, cgroup := range []string{
		SandboxStatus{CgroupPath: "/a/pod"}.containerCgroup(id),
		SandboxStatus{CgroupPath: "/a.slice", SystemdCgroup: true}.containerCgroup(id),
		"/a.slice/berth-" + id + ".scope",
		"/a.slice/" + id + ".scope",
	} {
		if got := containerOf(cgroup); got != id {
			t.Errorf("%s: %q", cgroup, got)
		}
	}
}
