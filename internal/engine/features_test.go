package engine

import (
	"slices"
	"testing"
)

func TestFeaturesNameWhatIsAccepted(t *testing.T) {
	f := Features()
	for _, ns := range []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"} {
		if !slices.Contains(f.Linux.Namespaces, ns) {
			t.Errorf("namespace %s is missing in %v", ns, f.Linux.Namespaces)
		}
	}
	for _, o := range []string{"rro", "rnosuid", "idmap", "tmpcopyup", "rslave", "remount"} {
		if !slices.Contains(f.MountOptions, o) {
			t.Errorf("mount option %s is missing in %v", o, f.MountOptions)
		}
		if opts, err := parseMountOptions([]string{o}); err != nil || len(opts.data) > 0 {
			t.Errorf("mount option %s is not understood: %+v, %v", o, opts, err)
		}
	}
	if !slices.Contains(f.Linux.Seccomp.Actions, "SCMP_ACT_NOTIFY") || len(f.Hooks) != 6 || len(f.Linux.Seccomp.KnownFlags) != 4 {
		t.Errorf("%+v, %v", f.Linux.Seccomp, f.Hooks)
	}
}
