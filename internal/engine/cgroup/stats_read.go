package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Stats reads the group's counters, some fifteen short files. The error wraps fs.ErrNotExist if the group does not exist.
func (g *Group) Stats() (*Stats, error) {
	if !g.h.primary.dir.Exists(g.rel) {
		return nil, fmt.Errorf("read counters of cgroup %s: %w", g.Path(), fs.ErrNotExist)
	}
	s := &Stats{At: time.Now(), Unified: g.h.unified}
	s.Memory.Limit, s.Memory.SwapLimit, s.Pids.Limit = Unlimited, Unlimited, Unlimited
	r := &reader{g: g}
	if g.h.unified {
		r.cpuV2(&s.CPU)
	} else {
		r.cpuV1(&s.CPU)
	}
	if r.at("memory") {
		if r.h.V2 {
			r.memoryV2(&s.Memory)
		} else {
			r.memoryV1(&s.Memory)
		}
	}
	if r.at("pids") {
		s.Pids.Current = r.number("pids.current")
		s.Pids.Limit = r.limit("pids.max")
	}
	if r.at("blkio", "io") {
		if r.h.V2 {
			r.ioV2(&s.IO)
		} else {
			r.ioV1(&s.IO)
		}
	}
	if g.h.v2 != nil {
		r.h = g.h.v2
		s.CPU.Pressure, s.Memory.Pressure, s.IO.Pressure = r.pressure("cpu"), r.pressure("memory"), r.pressure("io")
	}
	if r.err != nil {
		return nil, fmt.Errorf("read counters of a cgroup: %w", r.err)
	}
	return s, nil
}

// OOMKills is how many processes of the group (under v2, of its children too) the OOM killer has ended: one
// short read, made for whoever has seen a process end by SIGKILL and wonders why.
func (g *Group) OOMKills() (uint64, error) {
	r := &reader{g: g}
	if !r.at("memory") {
		return 0, fmt.Errorf("count OOM kills in cgroup %s: %w: no memory controller", g.Path(), ErrUnsupported)
	}
	text, err := r.h.dir.Read(g.rel+"/"+r.oomFile(), nil)
	if err != nil {
		return 0, fmt.Errorf("count OOM kills: %w", err)
	}
	return numbers(text)["oom_kill"], nil
}

// reader reads files of one group. A file that this kernel lacks reads as empty; the first other error stays in err.
type reader struct {
	g   *Group
	h   *hierarchy
	buf []byte
	err error
}

// at turns to the hierarchy of a controller, if there is one.
func (r *reader) at(controllers ...string) bool {
	r.h = r.g.h.find(controllers...)
	return r.h != nil
}

// text returns a file; it is overwritten by the next one.
func (r *reader) text(file string) []byte {
	if r.err != nil || r.h == nil {
		return nil
	}
	text, err := r.h.dir.Read(r.g.rel+"/"+file, r.buf)
	switch {
	case err == nil:
		r.buf = text
		return text
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EOPNOTSUPP):
		return nil
	}
	r.err = err
	return nil
}

// number reads a file that holds one number or "max"; a missing one counts nothing.
func (r *reader) number(file string) uint64 { return parseNumber(r.text(file)) }

func parseNumber(text []byte) uint64 {
	text = bytes.TrimSpace(text)
	switch string(text) {
	case "":
		return 0
	case "max":
		return Unlimited
	}
	n, _ := strconv.ParseUint(string(text), 10, 64)
	return n
}

// limit reads a limit; a missing file limits nothing.
func (r *reader) limit(file string) uint64 {
	text := r.text(file)
	if text == nil {
		return Unlimited
	}
	n := parseNumber(text)
	if n >= 1<<63-1<<16 { // v1 shows no limit as the largest number of whole pages
		return Unlimited
	}
	return n
}

// fields reads lines of a key and a number.
func (r *reader) fields(file string) map[string]uint64 { return numbers(r.text(file)) }

func numbers(text []byte) map[string]uint64 {
	m := map[string]uint64{}
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
		if n, err := strconv.ParseUint(string(value), 10, 64); ok && err == nil {
			m[string(key)] = n
		}
	}
	return m
}

func (r *reader) cpuV1(s *CPUStats) {
	if r.at("cpuacct") {
		s.Usage = r.number("cpuacct.usage")
		s.User = r.number("cpuacct.usage_user")
		s.System = r.number("cpuacct.usage_sys")
	}
	if r.at("cpu") {
		f := r.fields("cpu.stat")
		s.Periods, s.Throttled, s.ThrottledTime = f["nr_periods"], f["nr_throttled"], f["throttled_time"]
	}
}

func (r *reader) cpuV2(s *CPUStats) {
	r.h = r.g.h.v2
	f := r.fields("cpu.stat")
	s.Usage, s.User, s.System = f["usage_usec"]*1000, f["user_usec"]*1000, f["system_usec"]*1000
	s.Periods, s.Throttled, s.ThrottledTime = f["nr_periods"], f["nr_throttled"], f["throttled_usec"]*1000
}

func (r *reader) memoryV1(s *MemoryStats) {
	f := r.fields("memory.stat")
	s.Usage = r.number("memory.usage_in_bytes")
	s.WorkingSet = s.Usage - min(s.Usage, f["total_inactive_file"])
	s.RSS, s.Cache, s.Swap = f["total_rss"], f["total_cache"], f["total_swap"]
	s.PageFaults, s.MajorPageFaults = f["total_pgfault"], f["total_pgmajfault"]
	s.Peak = r.number("memory.max_usage_in_bytes")
	s.FailCount = r.number("memory.failcnt") + r.number("memory.memsw.failcnt")
	s.OOMKills = r.fields("memory.oom_control")["oom_kill"]
	s.Limit = r.limit("memory.limit_in_bytes")
	if both := r.limit("memory.memsw.limit_in_bytes"); both != Unlimited && s.Limit != Unlimited {
		s.SwapLimit = both - min(both, s.Limit)
	}
}

func (r *reader) memoryV2(s *MemoryStats) {
	f := r.fields("memory.stat")
	s.Usage = r.number("memory.current")
	s.WorkingSet = s.Usage - min(s.Usage, f["inactive_file"])
	s.RSS, s.Cache = f["anon"], f["file"]
	s.PageFaults, s.MajorPageFaults = f["pgfault"], f["pgmajfault"]
	s.Swap = r.number("memory.swap.current")
	s.Peak = r.number("memory.peak")
	events := r.fields("memory.events")
	s.FailCount, s.OOMKills = events["max"], events["oom_kill"]
	s.Limit = r.limit("memory.max")
	s.SwapLimit = r.limit("memory.swap.max")
}

func (r *reader) ioV1(s *IOStats) {
	devices := map[string]*DeviceIO{}
	for _, file := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"} {
		for line := range bytes.Lines(r.text(file)) { // "8:0 Read 4096"
			f := strings.Fields(string(line))
			if len(f) != 3 {
				continue
			}
			n, err := strconv.ParseUint(f[2], 10, 64)
			d := deviceIO(devices, f[0])
			if err != nil || d == nil {
				continue
			}
			switch f[1] + strings.TrimPrefix(file, "blkio.throttle.io_service") {
			case "Read_bytes_recursive":
				d.ReadBytes = n
			case "Write_bytes_recursive":
				d.WriteBytes = n
			case "Readd_recursive":
				d.ReadOps = n
			case "Writed_recursive":
				d.WriteOps = n
			}
		}
	}
	s.sum(devices)
}

func (r *reader) ioV2(s *IOStats) {
	devices := map[string]*DeviceIO{}
	for line := range bytes.Lines(r.text("io.stat")) { // "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		d := deviceIO(devices, f[0])
		if d == nil {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, _ := strconv.ParseUint(value, 10, 64)
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			}
		}
	}
	s.sum(devices)
}

// deviceIO finds or makes the entry of "major:minor", nil if that is none.
func deviceIO(devices map[string]*DeviceIO, name string) *DeviceIO {
	if d := devices[name]; d != nil {
		return d
	}
	major, minor, _ := strings.Cut(name, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	devices[name] = &DeviceIO{Major: uint32(a), Minor: uint32(b)}
	return devices[name]
}

func (s *IOStats) sum(devices map[string]*DeviceIO) {
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := devices[name]
		s.Devices = append(s.Devices, *d)
		s.ReadBytes += d.ReadBytes
		s.WriteBytes += d.WriteBytes
		s.ReadOps += d.ReadOps
		s.WriteOps += d.WriteOps
	}
}

func (r *reader) pressure(resource string) *Pressure {
	return parsePressure(r.text(resource + ".pressure"))
}

// parsePressure is nil for an empty text; see Pressure.parse.
func parsePressure(text []byte) *Pressure {
	if len(text) == 0 {
		return nil
	}
	p := &Pressure{}
	p.parse(text)
	return p
}

// parse reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0" and the same of "full".
func (p *Pressure) parse(text []byte) {
	for len(text) > 0 {
		var line, word, pair []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		word, line, _ = bytes.Cut(line, []byte{' '})
		to := &p.Some
		if string(word) == "full" {
			to = &p.Full
		}
		for len(line) > 0 {
			pair, line, _ = bytes.Cut(line, []byte{' '})
			key, value, _ := bytes.Cut(pair, []byte{'='})
			switch string(key) {
			case "avg10":
				to.Avg10 = parseDecimal(value)
			case "avg60":
				to.Avg60 = parseDecimal(value)
			case "avg300":
				to.Avg300 = parseDecimal(value)
			case "total":
				to.Total, _ = strconv.ParseUint(string(value), 10, 64)
			}
		}
	}
}

// parseDecimal reads "12.34", up to the first other character.
func parseDecimal(text []byte) float64 {
	digits, scale, point := 0.0, 1.0, false
	for _, c := range text {
		switch {
		case c == '.' && !point:
			point = true
		case c < '0' || c > '9':
			return digits / scale
		default:
			digits = digits*10 + float64(c-'0')
			if point {
				scale *= 10
			}
		}
	}
	return digits / scale
}
