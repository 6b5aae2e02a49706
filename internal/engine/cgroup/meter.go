package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// The files that a Meter reads.
const (
	meterCPU = iota
	meterMemoryStat
	meterMemory
	meterPids
	meterCPUPressure
	meterMemoryPressure
	meterIOPressure
	// Under v2 only: memory.stat of v1 has these.
	meterSwap
	meterLimit
	meterSwapLimit

	meterFiles
)

var (
	meterNamesV1 = [meterFiles]string{
		meterCPU: "cpuacct.usage", meterMemoryStat: "memory.stat", meterMemory: "memory.usage_in_bytes", meterPids: "pids.current",
	}
	meterNamesV2 = [meterFiles]string{
		meterCPU: "cpu.stat", meterMemoryStat: "memory.stat", meterMemory: "memory.current", meterPids: "pids.current",
		meterCPUPressure: "cpu.pressure", meterMemoryPressure: "memory.pressure", meterIOPressure: "io.pressure",
		meterSwap: "memory.swap.current", meterLimit: "memory.max", meterSwapLimit: "memory.swap.max",
	}
)

// Meter reads the counters of one group again and again, for whoever asks often and about many groups: it keeps
// the files open, so that a reading is up to seven system calls (ten under v2) and half of the time that opening them each time
// takes. Each costs the kernel a page of memory. An open file does not keep a group from being removed.
// Two methods of one Meter must not be called at once.
type Meter struct {
	g      *Group
	files  [meterFiles]sys.KernFile
	absent [meterFiles]bool // this kernel does not have it, or nobody wants it
	closed bool
}

// Meter makes a meter; it opens its files when it first reads them. Without processes it does not read how many there are.
func (g *Group) Meter(processes bool) *Meter {
	m := &Meter{g: g}
	m.absent[meterPids] = !processes
	return m
}

// Files is how many files it holds open.
func (m *Meter) Files() int {
	n := 0
	for _, f := range m.files {
		if f.IsOpen() {
			n++
		}
	}
	return n
}

// Close releases the files. Read fails from then on.
func (m *Meter) Close() {
	for i := range m.files {
		m.files[i].Close()
	}
	m.closed = true
}

// Read reads CPU.Usage, the number of processes if it is wanted, all pressures and of the memory Usage, WorkingSet, RSS, Cache,
// Swap, page faults and limits; the limits are the lowest of the group and those above it under v1, and the group's
// own under v2. Everything else is zero: see Group.Stats. The error wraps fs.ErrNotExist if the group does not exist.
func (m *Meter) Read() (s Stats, err error) {
	if m.closed {
		return s, fmt.Errorf("read counters of cgroup %s: %w", m.g.Path(), os.ErrClosed)
	}
	s.At = time.Now()
	s.Memory.Limit, s.Memory.SwapLimit, s.Pids.Limit = Unlimited, Unlimited, Unlimited
	r := meterReader{m: m}
	if h := m.g.h.find("cpuacct"); h != nil {
		s.CPU.Usage = parseNumber(r.text(h, meterCPU))
	} else if m.g.h.unified {
		r.cpuV2(&s.CPU)
	}
	if h := m.g.h.find("memory"); h != nil {
		if h.V2 {
			r.memoryV2(h, &s.Memory)
		} else {
			r.memoryV1(h, &s.Memory)
		}
	}
	s.Pids.Current = parseNumber(r.text(m.g.h.find("pids"), meterPids))
	if v2 := m.g.h.v2; v2 != nil {
		var p [3]Pressure
		for i, to := range []**Pressure{&s.CPU.Pressure, &s.Memory.Pressure, &s.IO.Pressure} {
			if text := r.text(v2, meterCPUPressure+i); len(text) > 0 {
				p[i].parse(text)
				*to = &p[i]
			}
		}
	}
	if r.err != nil {
		return s, fmt.Errorf("read counters of a cgroup: %w", r.err)
	}
	return s, nil
}

// meterReader is one reading; the first error stays in err.
type meterReader struct {
	m   *Meter
	err error
	buf [4096]byte
}

// text reads a file of the meter; what it returns is overwritten by the next reading.
func (r *meterReader) text(h *hierarchy, file int) []byte {
	if h == nil || r.err != nil || r.m.absent[file] {
		return nil
	}
	f := &r.m.files[file]
	name := meterNamesV1[file]
	if h.V2 {
		name = meterNamesV2[file]
	}
	if !f.IsOpen() {
		var err error
		if *f, err = h.dir.Keep(r.m.g.rel + "/" + name); err != nil {
			r.missing(file, err)
			return nil
		}
	}
	for buf := r.buf[:]; ; {
		n, err := f.Read(buf)
		switch {
		case n == len(buf):
			buf = make([]byte, 2*len(buf)) // there may be more
		case err == nil:
			return buf[:n]
		case errors.Is(err, syscall.ENODEV): // the group is gone
			r.err = &fs.PathError{Op: "read", Path: h.dir.Path(r.m.g.rel + "/" + name), Err: fs.ErrNotExist}
			return nil
		case errors.Is(err, syscall.EOPNOTSUPP):
			f.Close()
			r.m.absent[file] = true
			return nil
		default:
			r.err = &fs.PathError{Op: "read", Path: h.dir.Path(r.m.g.rel + "/" + name), Err: err}
			return nil
		}
	}
}

// missing tells a file that the kernel lacks from a group that is gone.
func (r *meterReader) missing(file int, err error) {
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
	case errors.Is(err, fs.ErrNotExist) && r.m.g.h.primary.dir.Exists(r.m.g.rel):
	default:
		r.err = err
		return
	}
	r.m.absent[file] = true
}

func (r *meterReader) cpuV2(s *CPUStats) {
	for text := r.text(r.m.g.h.v2, meterCPU); len(text) > 0; {
		var key []byte
		var n uint64
		key, n, text = cutField(text)
		if string(key) == "usage_usec" {
			s.Usage = n * 1000
		}
	}
}

func (r *meterReader) memoryV1(h *hierarchy, s *MemoryStats) {
	var inactive uint64
	limit, both := Unlimited, Unlimited
	for text := r.text(h, meterMemoryStat); len(text) > 0; {
		var key []byte
		var n uint64
		key, n, text = cutField(text)
		switch string(key) {
		case "total_inactive_file":
			inactive = n
		case "total_rss":
			s.RSS = n
		case "total_cache":
			s.Cache = n
		case "total_swap":
			s.Swap = n
		case "total_pgfault":
			s.PageFaults = n
		case "total_pgmajfault":
			s.MajorPageFaults = n
		case "hierarchical_memory_limit":
			limit = atMost(n)
		case "hierarchical_memsw_limit":
			both = atMost(n)
		}
	}
	s.Usage = parseNumber(r.text(h, meterMemory))
	s.WorkingSet = s.Usage - min(s.Usage, inactive)
	s.Limit = limit
	if both != Unlimited && limit != Unlimited {
		s.SwapLimit = both - min(both, limit)
	}
}

func (r *meterReader) memoryV2(h *hierarchy, s *MemoryStats) {
	var inactive uint64
	for text := r.text(h, meterMemoryStat); len(text) > 0; {
		var key []byte
		var n uint64
		key, n, text = cutField(text)
		switch string(key) {
		case "inactive_file":
			inactive = n
		case "anon":
			s.RSS = n
		case "file":
			s.Cache = n
		case "pgfault":
			s.PageFaults = n
		case "pgmajfault":
			s.MajorPageFaults = n
		}
	}
	s.Usage = parseNumber(r.text(h, meterMemory))
	s.WorkingSet = s.Usage - min(s.Usage, inactive)
	s.Swap = parseNumber(r.text(h, meterSwap))
	if text := r.text(h, meterLimit); text != nil {
		s.Limit = parseNumber(text)
	}
	if text := r.text(h, meterSwapLimit); text != nil {
		s.SwapLimit = parseNumber(text)
	}
}

// atMost reads a v1 limit: none is the largest number of whole pages.
func atMost(n uint64) uint64 {
	if n >= 1<<63-1<<16 {
		return Unlimited
	}
	return n
}

// cutField takes the first line, of a key and a number, off a text of such lines. A line that is none has no key. It neither
// keeps the text nor hands it to others, so that it stays on the stack.
func cutField(text []byte) (key []byte, n uint64, rest []byte) {
	line, rest, _ := bytes.Cut(text, []byte{'\n'})
	space := bytes.IndexByte(line, ' ')
	if space < 0 {
		return nil, 0, rest
	}
	for _, c := range line[space+1:] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return line[:space], n, rest
}
