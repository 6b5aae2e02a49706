package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

// MeterFiles is how many descriptors a Meter keeps at most.
const MeterFiles = 7

// Meter reads the counters of one group again and again, for whoever asks often and about many groups: it keeps
// the descriptors of up to MeterFiles files, so that a reading is as many system calls and some fifteen
// microseconds, a quarter of what opening them each time takes. Each costs the kernel a page of memory.
// A descriptor does not keep a group from being removed. Its methods may be called from several goroutines.
type Meter struct {
	g *Group

	mu     sync.Mutex
	files  map[string]*os.File
	absent map[string]bool // files that this kernel does not have
	buf    []byte
	closed bool
}

// Meter makes a meter; it opens its files when it first reads them.
func (g *Group) Meter() *Meter {
	return &Meter{g: g, files: map[string]*os.File{}, absent: map[string]bool{}}
}

// Close releases the descriptors. Read fails from then on.
func (m *Meter) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.files {
		f.Close()
	}
	m.files, m.closed = nil, true
}

// Read reads CPU.Usage, the number of processes, all pressures and of the memory Usage, WorkingSet, RSS, Cache,
// Swap, page faults and limits; the limits are the lowest of the group and those above it under v1, and the group's
// own under v2. Everything else is zero: see Group.Stats. The error wraps fs.ErrNotExist if the group does not exist.
func (m *Meter) Read() (*Stats, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("read counters of cgroup %s: %w", m.g.Path(), os.ErrClosed)
	}
	s := &Stats{At: time.Now()}
	s.Memory.Limit, s.Memory.SwapLimit, s.Pids.Limit = Unlimited, Unlimited, Unlimited
	r := &meterReader{m: m}
	if m.g.h.unified {
		r.cpuV2(s)
	} else {
		s.CPU.Usage = parseNumber(r.text(m.g.h.find("cpuacct"), "cpuacct.usage"))
	}
	if h := m.g.h.find("memory"); h != nil {
		if h.V2 {
			r.memoryV2(h, &s.Memory)
		} else {
			r.memoryV1(h, &s.Memory)
		}
	}
	s.Pids.Current = parseNumber(r.text(m.g.h.find("pids"), "pids.current"))
	if v2 := m.g.h.v2; v2 != nil {
		s.CPU.Pressure = parsePressure(r.text(v2, "cpu.pressure"))
		s.Memory.Pressure = parsePressure(r.text(v2, "memory.pressure"))
		s.IO.Pressure = parsePressure(r.text(v2, "io.pressure"))
	}
	if r.err != nil {
		return nil, fmt.Errorf("read counters of a cgroup: %w", r.err)
	}
	return s, nil
}

// meterReader is one reading; the first error stays in err.
type meterReader struct {
	m   *Meter
	err error
}

// text reads a file whose descriptor is kept; what it returns is overwritten by the next reading.
func (r *meterReader) text(h *hierarchy, file string) []byte {
	if h == nil || r.err != nil || r.m.absent[file] {
		return nil
	}
	f := r.m.files[file]
	if f == nil {
		var err error
		if f, err = h.dir.Open(r.m.g.rel+"/"+file, syscall.O_RDONLY); err != nil {
			r.missing(file, err)
			return nil
		}
		r.m.files[file] = f
	}
	for {
		if len(r.m.buf) == 0 {
			r.m.buf = make([]byte, 4096)
		}
		n, err := f.ReadAt(r.m.buf, 0)
		switch {
		case n == len(r.m.buf):
			r.m.buf = make([]byte, 2*len(r.m.buf)) // there may be more
		case errors.Is(err, syscall.ENODEV): // the group is gone
			r.err = &fs.PathError{Op: "read", Path: f.Name(), Err: fs.ErrNotExist}
			return nil
		case errors.Is(err, syscall.EOPNOTSUPP):
			r.m.absent[file] = true
			return nil
		default:
			return r.m.buf[:n] // the end of the file, as ReadAt tells it, or an empty one
		}
	}
}

// once reads a file whose descriptor is not kept.
func (r *meterReader) once(h *hierarchy, file string) []byte {
	if r.err != nil || r.m.absent[file] {
		return nil
	}
	text, err := h.dir.Read(r.m.g.rel+"/"+file, r.m.buf)
	if err != nil {
		r.missing(file, err)
		return nil
	}
	r.m.buf = text[:cap(text)]
	return text
}

// missing tells a file that the kernel lacks from a group that is gone.
func (r *meterReader) missing(file string, err error) {
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
	case errors.Is(err, fs.ErrNotExist) && r.m.g.h.primary.dir.Exists(r.m.g.rel):
	default:
		r.err = err
		return
	}
	r.m.absent[file] = true
}

func (r *meterReader) cpuV2(s *Stats) {
	each(r.text(r.m.g.h.v2, "cpu.stat"), func(key []byte, n uint64) {
		if string(key) == "usage_usec" {
			s.CPU.Usage = n * 1000
		}
	})
}

func (r *meterReader) memoryV1(h *hierarchy, s *MemoryStats) {
	var inactive uint64
	limit, both := Unlimited, Unlimited
	each(r.text(h, "memory.stat"), func(key []byte, n uint64) {
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
	})
	s.Usage = parseNumber(r.text(h, "memory.usage_in_bytes"))
	s.WorkingSet = s.Usage - min(s.Usage, inactive)
	s.Limit = limit
	if both != Unlimited && limit != Unlimited {
		s.SwapLimit = both - min(both, limit)
	}
}

func (r *meterReader) memoryV2(h *hierarchy, s *MemoryStats) {
	var inactive uint64
	each(r.text(h, "memory.stat"), func(key []byte, n uint64) {
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
	})
	s.Usage = parseNumber(r.text(h, "memory.current"))
	s.WorkingSet = s.Usage - min(s.Usage, inactive)
	s.Swap = parseNumber(r.once(h, "memory.swap.current"))
	if text := r.once(h, "memory.max"); text != nil {
		s.Limit = parseNumber(text)
	}
	if text := r.once(h, "memory.swap.max"); text != nil {
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

// each calls f with every line of a key and a number.
func each(text []byte, f func(key []byte, n uint64)) {
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(line, []byte{' '})
		if !ok {
			continue
		}
		var n uint64
		for _, c := range value {
			if c < '0' || c > '9' {
				break
			}
			n = n*10 + uint64(c-'0')
		}
		f(key, n)
	}
}
