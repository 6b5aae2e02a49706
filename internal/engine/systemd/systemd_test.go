package systemd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
)

// manager is a systemd with scopes alone, at the other end of a bus that is a pair of sockets.
type manager struct {
	mu     sync.Mutex
	conns  []*godbus.Conn
	units  map[string]map[string]godbus.Variant
	failed map[string]bool
	jobs   int
	result string
	// started is called with a scope's slice and first process.
	started func(name, slice string, pid uint32) error
}

type property2 struct {
	Name  string
	Value godbus.Variant
}

type aux struct {
	Name       string
	Properties []property2
}

func (m *manager) StartTransientUnit(name, mode string, properties []property2, _ []aux) (godbus.ObjectPath, *godbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.units[name]; there || m.failed[name] {
		return "", godbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + name + " already exists."})
	}
	p := map[string]godbus.Variant{}
	for _, e := range properties {
		p[e.Name] = e.Value
	}
	m.units[name] = p
	pids, _ := p["PIDs"].Value().([]uint32)
	slice, _ := p["Slice"].Value().(string)
	if m.started != nil && len(pids) == 1 {
		if err := m.started(name, slice, pids[0]); err != nil {
			return "", godbus.MakeFailedError(err)
		}
	}
	return m.job(name), nil
}

func (m *manager) StopUnit(name, mode string) (godbus.ObjectPath, *godbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.units[name]; !there {
		return "", godbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	delete(m.units, name)
	return m.job(name), nil
}

func (m *manager) ResetFailedUnit(name string) *godbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.failed[name] {
		return godbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	delete(m.failed, name)
	return nil
}

func (m *manager) SetUnitProperties(name string, runtime bool, properties []property2) *godbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range properties {
		m.units[name][e.Name] = e.Value
	}
	return nil
}

// job tells everybody, a moment later, that a job has ended.
func (m *manager) job(unit string) godbus.ObjectPath {
	m.jobs++
	path := godbus.ObjectPath(fmt.Sprintf("/org/freedesktop/systemd1/job/%d", m.jobs))
	id, result, conns := uint32(m.jobs), m.result, m.conns
	go func() {
		for _, c := range conns {
			c.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", id, path, unit, result)
		}
	}()
	return path
}

type bus struct{}

func (bus) AddMatch(string) *godbus.Error { return nil }

// connect returns a driver of m.
func (m *manager) connect(t *testing.T, unified bool) *Driver {
	t.Helper()
	m.units, m.failed, m.result = map[string]map[string]godbus.Variant{}, map[string]bool{}, "done"
	conn, err := dbus.NewConnection(func() (*godbus.Conn, error) {
		ends, err := wire()
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { ends[1].Close() })
		if err := ends[1].Export(m, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"); err != nil {
			return nil, err
		}
		if err := ends[1].Export(bus{}, "/org/freedesktop/DBus", "org.freedesktop.DBus"); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.conns = append(m.conns, ends[1])
		m.mu.Unlock()
		return ends[0], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{conn: conn, unified: unified}
	t.Cleanup(d.Close)
	return d
}

// wire connects two clients of a bus with one another: each shakes hands as with a bus, then they hear each other.
func wire() (ends [2]*godbus.Conn, err error) {
	var near, far [2]net.Conn
	near[0], far[0] = net.Pipe()
	near[1], far[1] = net.Pipe()
	var ready [2]chan *bufio.Reader
	for n := range ends {
		ready[n] = make(chan *bufio.Reader, 1)
		go func() { ready[n] <- welcome(far[n]) }()
		if ends[n], err = godbus.NewConn(near[n]); err != nil {
			return ends, err
		}
		if err = ends[n].Auth([]godbus.Auth{godbus.AuthExternal("0")}); err != nil {
			return ends, err
		}
	}
	for n := range ends {
		from, to := <-ready[n], far[1-n]
		go func() {
			io.Copy(to, from)
			to.Close()
		}()
	}
	return ends, nil
}

// welcome is the bus's part of the handshake (D-Bus specification, Authentication Protocol).
func welcome(c net.Conn) *bufio.Reader {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return r
		}
		switch line = strings.Trim(line, "\x00\r\n"); {
		case line == "AUTH":
			io.WriteString(c, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			io.WriteString(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case line == "BEGIN":
			return r
		default:
			io.WriteString(c, "ERROR\r\n")
		}
	}
}

func resources() *specs.LinuxResources {
	memory, shares, quota, period, pids := int64(1<<30), uint64(2048), int64(25000), uint64(100000), int64(-1)
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids},
		CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period},
	}
}

func TestScope(t *testing.T) {
	for unified, want := range map[bool]map[string]any{
		false: {"MemoryLimit": uint64(1 << 30), "CPUShares": uint64(2048)},
		true:  {"MemoryMax": uint64(1 << 30), "CPUWeight": uint64(174)},
	} {
		m := &manager{}
		d := m.connect(t, unified)
		ctx := context.Background()
		if err := d.Start(ctx, engine.Scope{ID: "web", Name: "berth-web.scope", Slice: "pods.slice", PID: 42, Resources: resources()}); err != nil {
			t.Fatal(err)
		}
		want["Slice"], want["Delegate"], want["DefaultDependencies"], want["CPUQuotaPerSecUSec"], want["TasksMax"] = "pods.slice", true, false, uint64(250000), ^uint64(0)
		have := m.units["berth-web.scope"]
		for name, v := range want {
			if have[name].Value() != v {
				t.Errorf("unified %v: %s is %v, want %v", unified, name, have[name], v)
			}
		}
		limit := int64(5)
		if err := d.Update(ctx, "berth-web.scope", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil || have["TasksMax"].Value() != uint64(5) {
			t.Errorf("update: %v, %v", have["TasksMax"], err)
		}
		for range 2 {
			if err := d.Stop(ctx, "berth-web.scope"); err != nil || len(m.units) != 0 {
				t.Errorf("stop: %v, left: %v", err, m.units)
			}
		}
		m.failed["berth-web.scope"] = true // of an earlier life
		if err := d.Start(ctx, engine.Scope{Name: "berth-web.scope", Slice: "pods.slice", PID: 42}); err != nil {
			t.Error(err)
		}
		m.result = "failed"
		if err := d.Start(ctx, engine.Scope{Name: "other.scope", Slice: "pods.slice", PID: 42}); err == nil || !strings.Contains(err.Error(), `"failed"`) {
			t.Errorf("a failed job: %v", err)
		}
	}
}

func TestNoSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/private"); err == nil {
		t.Skip("systemd runs here")
	}
	if _, err := Connect(context.Background(), true); err == nil || !strings.Contains(err.Error(), "systemd") {
		t.Errorf("got %v", err)
	}
}

// A whole container in a scope; the manager makes the cgroup, as systemd does.
func TestContainerInAScope(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces, mounts and cgroups")
	}
	if _, err := os.Stat("/usr/bin/busybox"); err != nil {
		t.Skip("needs Debian's busybox-static: " + err.Error())
	}
	slice := fmt.Sprintf("berthtest%d", os.Getpid())
	m := &manager{started: func(name, of string, pid uint32) error {
		g, err := cgroup.Load("/" + of + "/" + name)
		if err != nil {
			return err
		}
		if err := g.Create(context.Background()); err != nil {
			return err
		}
		return g.Join(int(pid))
	}}
	d := m.connect(t, false)
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "dev", "sys"} {
		os.Mkdir(filepath.Join(root, dir), 0o755)
	}
	b, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "bin/sh"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	spec := engine.DefaultSpec()
	spec.Root.Path, spec.Process.Args = root, []string{"sh", "-c", "while :; do read x; done < /dev/zero"}
	spec.Linux.CgroupsPath = slice + ".slice:berth:web"
	limit := int64(64 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	ctx := context.Background()
	c, err := engine.Create(ctx, engine.CreateOptions{ID: "web", Bundle: t.TempDir(), Spec: spec, Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if parent, err := cgroup.Load("/" + slice + ".slice"); err == nil {
			parent.Delete(ctx)
		}
	}()
	if err := c.Start(ctx); err != nil {
		t.Error(err)
	}
	if want := "/" + slice + ".slice/berth-web.scope"; c.State().CgroupPath != want || c.State().Scope != "berth-web.scope" {
		t.Errorf("state %+v", c.State())
	}
	if st, err := c.Stats(); err != nil || st.Memory.Limit != uint64(limit) || st.Pids.Current == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	// Another process takes it over and removes it.
	a, err := engine.Adopt(ctx, c.State(), spec, engine.AdoptOptions{Scopes: d})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx); err != nil {
		t.Error(err)
	}
	if len(m.units) != 0 || c.Cgroup().Exists() {
		t.Errorf("left: %v", m.units)
	}
	for _, bad := range []string{"/plain/path", "x:y:z", "a--b.slice::n", "a.slice:b:../c"} {
		spec.Linux.CgroupsPath = bad
		if _, err := engine.Create(ctx, engine.CreateOptions{ID: "web", Bundle: t.TempDir(), Spec: spec, Scopes: d}); err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
