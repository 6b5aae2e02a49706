package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

// A class of block I/O that a pod's annotation names limits its containers; one that is not there is refused.
func TestBlockIOClass(t *testing.T) {
	disk, number := aDisk(t)
	m := newMachine(t)
	classes := m.file("blockio.yaml", fmt.Sprintf("Classes:\n  slow:\n  - Devices: [%s]\n    ThrottleWriteBps: 7M\n", disk))
	config := m.file("config.toml", fmt.Sprintf("[cgroup]\nblockio_config_file = %q\n", classes))
	m.beginWith(nil, "--config", config, "cri").says("node is up")
	c := dialCRI(t, m.criSocket())
	c.pullDemo()
	pod := podOf("slow", 0)
	pod.Annotations = map[string]string{"blockio.resources.beta.kubernetes.io/pod": "slow", "blockio.resources.beta.kubernetes.io/container.other": "none"}
	sb, err := c.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	made, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: pod, Config: appOf("demo", "show", "--wait", "1h")})
	if err == nil {
		_, err = c.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	}
	if err != nil {
		t.Fatal(err)
	}
	limit := ""
	for _, dir := range cgroups(node.NamesFor(m.run).CgroupParent) {
		for _, file := range []string{"blkio.throttle.write_bps_device", "io.max"} {
			if b, err := os.ReadFile(filepath.Join(dir, file)); err == nil && filepath.Base(dir) == made.ContainerId {
				limit += string(b)
			}
		}
	}
	if !strings.Contains(limit, number) || !strings.Contains(limit, "7000000") {
		t.Errorf("the limit of %s is %q", number, limit)
	}
	other := appOf("demo", "show")
	other.Metadata.Name = "other"
	if _, err := c.CreateContainer(c.ctx, &cri.CreateContainerRequest{PodSandboxId: sb.PodSandboxId, SandboxConfig: pod, Config: other}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("a class that is not there: %v", err)
	}
	c.removePod(sb.PodSandboxId)
	m.clean()
	stopCRI(m)
}

// aDisk is a block device of this machine that can be limited, and its number.
func aDisk(t *testing.T) (path, number string) {
	t.Helper()
	disks, _ := filepath.Glob("/sys/block/[svx]*d*/dev")
	for _, d := range disks {
		b, err := os.ReadFile(d)
		path := filepath.Join("/dev", filepath.Base(filepath.Dir(d)))
		if st, serr := os.Stat(path); err == nil && serr == nil && st.Mode()&os.ModeDevice != 0 {
			return path, strings.TrimSpace(string(b))
		}
	}
	t.Skip("needs a disk (/dev/sda, /dev/vda, …) to limit")
	return "", ""
}
