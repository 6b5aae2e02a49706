package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/sys"
)

// meter is runtime.Meter on a cgroup.
type meter struct{ m *cgroup.Meter }

// Meter opens a cgroup for statistics.
func (Kernel) Meter(path string, processes bool) (runtime.Meter, error) {
	g, err := cgroup.Load(path)
	if err != nil {
		return nil, err
	}
	return meter{g.Meter(processes)}, nil
}

// Close releases its descriptors.
func (m meter) Close() { m.m.Close() }

// Files is how many descriptors it holds.
func (m meter) Files() int { return m.m.Files() }

// Read reads the counters.
func (m meter) Read() (out runtime.Stats, err error) {
	s, err := m.m.Read()
	if err != nil {
		return out, err
	}
	out = runtime.Stats{
		At: s.At, CPUNanos: s.CPU.Usage,
		MemoryUsage: s.Memory.Usage, MemoryWorkingSet: s.Memory.WorkingSet, MemoryRSS: s.Memory.RSS, MemoryLimit: s.Memory.Limit,
		PageFaults: s.Memory.PageFaults, MajorPageFaults: s.Memory.MajorPageFaults, SwapUsage: s.Memory.Swap,
		Pids: s.Pids.Current, CPUPressure: s.CPU.Pressure, MemoryPressure: s.Memory.Pressure, IOPressure: s.IO.Pressure,
	}
	if out.MemoryLimit == cgroup.Unlimited {
		out.MemoryLimit = 0
	}
	if s.Memory.SwapLimit != cgroup.Unlimited {
		limit := s.Memory.SwapLimit
		out.SwapLimit = &limit
	}
	return out, nil
}

// Counters reads everything that the kernel counts for a cgroup.
func (Kernel) Counters(_ context.Context, path string) (*cgroup.Stats, error) {
	g, err := cgroup.Load(path)
	if err != nil {
		return nil, err
	}
	return g.Stats()
}

// ProcessUsage counts what the cgroup's processes hold. What ends meanwhile counts nothing.
func (k Kernel) ProcessUsage(ctx context.Context, path string) (runtime.ProcessUsage, error) {
	var out runtime.ProcessUsage
	pids, err := k.Processes(ctx, path)
	if err != nil {
		return out, err
	}
	for i, pid := range pids {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		if i == 0 {
			out.OpenFilesLimit = openFilesLimit(dir)
		}
		out.Processes++
		if tasks, err := os.ReadDir(dir + "/task"); err == nil {
			out.Threads += uint64(len(tasks))
		}
		fds, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue
		}
		out.FileDescriptors += uint64(len(fds))
		for _, fd := range fds {
			if to, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
				out.Sockets++
			}
		}
	}
	return out, nil
}

// openFilesLimit is the soft limit of a process, 0 if it can't be told.
func openFilesLimit(proc string) uint64 {
	b, err := os.ReadFile(proc + "/limits")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nMax open files")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// NetworkUsage reads the interfaces of a network namespace. The table of a process that is in it is read
// as it is; without one a thread has to go there.
func (Kernel) NetworkUsage(_ context.Context, pid int, netns string) ([]runtime.InterfaceUsage, error) {
	if pid != 0 {
		if text, ok := tableOf(pid, netns); ok {
			return parseNetDev(text)
		}
	}
	ns, err := sys.OpenNetNS(netns)
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	defer ns.Close()
	var text []byte
	err = sys.InNetNS(ns, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	return parseNetDev(text)
}

// tableOf reads the table that a process sees, if its namespace is the one that is meant: its pid may be
// another's by now, or it may have gone elsewhere.
func tableOf(pid int, netns string) ([]byte, bool) {
	want, err := os.Stat(netns)
	if err != nil {
		return nil, false
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	text, err := os.ReadFile(dir + "/net/dev")
	if err != nil {
		return nil, false
	}
	have, err := os.Stat(dir + "/ns/net") // after the reading, so that both are of one process
	return text, err == nil && os.SameFile(want, have)
}

// parseNetDev reads /proc/net/dev (proc_pid_net(5)): two lines of titles, then
// "name: bytes packets errs drop fifo frame compressed multicast" received, the same of what was sent.
func parseNetDev(text []byte) ([]runtime.InterfaceUsage, error) {
	var out []runtime.InterfaceUsage
	for line := range bytes.Lines(text) {
		name, rest, ok := strings.Cut(string(line), ":")
		name = strings.TrimSpace(name)
		if !ok || name == "lo" {
			continue
		}
		var n [16]uint64
		f := strings.Fields(rest)
		if len(f) < len(n) {
			return nil, fmt.Errorf("read network counters: line %q: %w", strings.TrimSpace(string(line)), errShortLine)
		}
		for i := range n {
			var err error
			if n[i], err = strconv.ParseUint(f[i], 10, 64); err != nil {
				return nil, fmt.Errorf("read network counters: %w", err)
			}
		}
		out = append(out, runtime.InterfaceUsage{
			Name: name, RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
			TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
		})
	}
	if i := slices.IndexFunc(out, func(u runtime.InterfaceUsage) bool { return u.Name == "eth0" }); i > 0 {
		out[0], out[i] = out[i], out[0]
	}
	return out, nil
}

var errShortLine = errors.New("too few numbers")
