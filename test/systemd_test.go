package test

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/engine/systemd/systemdtest"
	"github.com/11f9778f/berth/internal/node"
)

// A whole node whose cgroups systemd makes tells a kubelet so, has a slice a pod and a scope a container, and leaves none.
func TestNodeUnderSystemd(t *testing.T) {
	m := newMachine(t)
	manager := systemdtest.New(t)
	m.env = []string{"BERTH_CONFIG=" + m.file("config.toml", "[cgroup]\ndriver = \"systemd\"\n")}
	d := m.begin("node")
	d.says("node is up")
	c := dialCRI(t, m.criSocket())
	if rc, err := c.RuntimeConfig(c.ctx, &cri.RuntimeConfigRequest{}); err != nil || rc.Linux.CgroupDriver != cri.CgroupDriver_SYSTEMD {
		t.Errorf("%v, %v", rc, err)
	}
	m.must("run", "-d", m.file("pod.yaml", pod("web", "terminationGracePeriodSeconds: 1", container("app", "demo", "show", "--wait", "1h"))))
	m.eventually("the pod runs", func() bool { return m.pod("web").Status.Phase == "Running" })
	parent := strings.ReplaceAll(filepath.Base(node.NamesFor(m.run).CgroupParent), "-", "_")
	slice := parent + "-pod" + strings.ReplaceAll(string(m.pod("web").UID), "-", "_") + ".slice"
	units := manager.Units()
	if len(units) != 2 || !slices.Contains(units, slice) {
		t.Errorf("%v lacks %s and a scope", units, slice)
	}
	for _, u := range units {
		if u != slice && (manager.Property(u, "Slice") != slice || !strings.HasPrefix(u, "cri-berth-")) {
			t.Errorf("%s in %v", u, manager.Property(u, "Slice"))
		}
	}
	m.must("rm", "web")
	m.eventually("the units are gone", func() bool { return len(manager.Units()) == 0 })
	d.signal(syscall.SIGTERM)
	d.wait()
	if left := cgroups("/" + parent + ".slice"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
