package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/image/quota/quotatest"
)

// Containers that write more than they may, with the node's limit and with their pod's own, before and after a crash of
// the daemon. (test/vm/quota runs it where the machine's kernel has no quota.)
func TestQuotaOfContainers(t *testing.T) {
	disk := quotatest.Mount(t, "ext4", "loop,prjquota")
	m := newMachine(t)
	m.root = filepath.Join(disk, "root")
	tag, err := name.NewTag("example.com/busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(m.dir, "busybox.tar")
	if err := tarball.WriteToFile(archive, tag, busybox(t)); err != nil {
		t.Fatal(err)
	}
	start := func() *command {
		d := m.beginWith(nil, "--config", m.file("config.toml", "[images]\nwritable_limit_mib = 16\n"), "node")
		m.eventually("the node answers", m.answers)
		return d
	}
	d := start()
	m.must("image", "import", archive)
	pod := func(name, annotations string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, annotations: {%s}}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  containers:\n"+
			"  - {name: app, image: %q, command: [sh, -c, \"busybox dd if=/dev/zero of=/f bs=64k count=200; echo it goes on; sleep 3600\"]}\n", name, annotations, tag)
	}
	m.must("run", "-d", m.file("pods.yaml", pod("small", "io.berth.pod.writable-limit: 4Mi")+"---\n"+pod("large", "")))
	for pod, full := range map[string]bool{"small": true, "large": false} {
		m.eventually(pod+" has written", func() bool { return strings.Contains(m.must("logs", pod).stdout, "it goes on") })
		if out := m.must("logs", pod); strings.Contains(out.stdout+out.stderr, "quota exceeded") != full {
			t.Errorf("%s:\n%s%s", pod, out.stdout, out.stderr)
		}
	}
	c := dialCRI(t, m.criSocket())
	stats, err := c.ListContainerStats(c.ctx, &cri.ListContainerStatsRequest{})
	if err != nil || len(stats.GetStats()) != 2 {
		t.Fatalf("%v, %v", stats, err)
	}
	for _, s := range stats.Stats {
		most := uint64(16 << 20)
		if s.Attributes.Labels["io.kubernetes.pod.name"] == "small" {
			most = 4 << 20
		}
		if used := s.GetWritableLayer().GetUsedBytes().GetValue(); used > most || used < most*3/4 {
			t.Errorf("%v: %d bytes", s.Attributes.Labels, used)
		}
	}
	d.signal(syscall.SIGKILL)
	d.wait()
	d = start()
	if r := m.berth("exec", "small", "--", "sh", "-c", "busybox dd if=/dev/zero of=/g bs=64k count=200"); r.code == 0 || !strings.Contains(r.stderr, "quota exceeded") {
		t.Errorf("after the daemon's crash: exit code %d: %s", r.code, r.stderr)
	}
	m.must("rm", "small", "large")
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
