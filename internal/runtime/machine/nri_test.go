package machine_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/11f9778f/berth/internal/runtime"
)

// plugin writes down what it is told and changes containers.
type plugin struct {
	mu     sync.Mutex
	events []string
	synced []string
}

func (p *plugin) saw(what string, c *api.Container) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, what+" "+c.GetName())
	return nil
}

func (p *plugin) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, cs []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pod := range pods {
		p.synced = append(p.synced, pod.GetName())
	}
	for _, c := range cs {
		p.synced = append(p.synced, c.GetName()+" "+strings.Join(c.GetArgs(), " "))
	}
	return nil, nil
}
func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	if pod.GetName() == "unwanted" {
		return errors.New("not on this node")
	}
	return p.saw("run "+pod.GetName(), nil)
}
func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.saw("stop "+pod.GetName(), nil)
}
func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	return p.saw("remove "+pod.GetName(), nil)
}
func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	a := &api.ContainerAdjustment{}
	a.AddEnv("FROM_PLUGIN", "yes")
	a.AddMount(&api.Mount{Source: "/usr/share", Destination: "/from-plugin", Type: "bind", Options: []string{"bind", "ro"}})
	a.SetLinuxMemoryLimit(50 << 20)
	a.SetLinuxMemorySwap(50 << 20)
	return a, nil, p.saw("create", c)
}
func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.saw("created", c)
}
func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.saw("start", c)
}
func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.saw("started", c)
}
func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	u := &api.ContainerUpdate{}
	u.SetContainerId(c.GetId())
	u.SetLinuxCPUShares(r.GetCpu().GetShares().GetValue() * 2)
	return []*api.ContainerUpdate{u}, p.saw("update", c)
}
func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.saw("stop", c)
}
func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.saw("remove", c)
}

// A plugin of the Node Resource Interface learns of what is there and what happens, changes a container
// before it is made and its limits later, and can refuse a pod.
func TestNRI(t *testing.T) {
	p := newPlace(t)
	p.NRI = filepath.Join(p.Dir, "nri.sock")
	d := p.open(t)
	if err := d.nri.Start(d.rt); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before, err := d.rt.RunSandbox(ctx, p.pod("before", true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.start(ctx, before, shell("early", "sleep 1000")); err != nil {
		t.Fatal(err)
	}
	pl := &plugin{}
	st, err := stub.New(pl, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(p.NRI))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer st.Stop()
	eventually(t, "the plugin knows what was there", func() bool {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		return slices.Contains(pl.synced, "before") && slices.Contains(pl.synced, "early /bin/sh -c sleep 1000")
	})
	if _, err := d.rt.RunSandbox(ctx, p.pod("unwanted", true)); err == nil || !strings.Contains(err.Error(), "not on this node") {
		t.Errorf("an unwanted pod: %v", err)
	}
	sb, err := d.rt.RunSandbox(ctx, p.pod("pod", true))
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.start(ctx, sb, shell("main", "sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if got := d.exec(t, id, "echo $FROM_PLUGIN; test -d /from-plugin && echo mounted"); got != "yes\nmounted" {
		t.Errorf("inside: %q", got)
	}
	if s, err := d.rt.ContainerStats(ctx, id); err != nil || s.Cgroup.MemoryLimit != 50<<20 {
		t.Errorf("memory limit %d, %v", s.Cgroup.MemoryLimit, err)
	}
	if err := d.rt.UpdateResources(ctx, id, runtime.Resources{CPUShares: 300}); err != nil {
		t.Fatal(err)
	}
	if s, _ := d.rt.Container(id); s.Spec.Resources.CPUShares < 595 || s.Spec.Resources.CPUShares > 605 {
		t.Errorf("shares %d, the plugin doubles them", s.Spec.Resources.CPUShares)
	}
	u := &api.ContainerUpdate{}
	u.SetContainerId(id)
	u.SetLinuxMemoryLimit(40 << 20)
	if failed, err := st.UpdateContainers([]*api.ContainerUpdate{u}); err != nil || len(failed) > 0 {
		t.Errorf("unsolicited update: %v, %v", failed, err)
	}
	if s, err := d.rt.ContainerStats(ctx, id); err != nil || s.Cgroup.MemoryLimit != 40<<20 {
		t.Errorf("memory limit %d, %v", s.Cgroup.MemoryLimit, err)
	}
	for _, pod := range []string{sb, before} {
		if err := d.rt.RemoveSandbox(ctx, pod); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"run pod ", "create main", "created main", "start main", "started main", "update main", "stop main", "stop pod ", "remove main", "remove pod "}
	have := pl.seen()
	at := 0
	for _, e := range have {
		if at < len(want) && e == want[at] {
			at++
		}
	}
	if at < len(want) {
		t.Errorf("%q is missing or out of order in %q", want[at], have)
	}
	d.checkEmpty(t)
}
