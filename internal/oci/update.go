package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// limits are update's flags by the field that each sets.
type limits struct {
	resources string
	values    map[string]*string
}

// limitFlags are update's flags, in the order of the help text.
var limitFlags = []struct{ name, about string }{
	{"blkio-weight", "weight of block I/O, 10 to 1000"},
	{"cpu-period", "length of a period, in microseconds"},
	{"cpu-quota", "CPU time in a period, in microseconds"},
	{"cpu-burst", "CPU time that may be saved up, in microseconds"},
	{"cpu-share", "relative weight"},
	{"cpu-rt-period", "length of a realtime period, in microseconds"},
	{"cpu-rt-runtime", "realtime CPU time in a period, in microseconds"},
	{"cpu-idle", "1: run only when nobody else wants to"},
	{"cpuset-cpus", "CPUs to use, as 0-2,4"},
	{"cpuset-mems", "memory nodes to use"},
	{"memory", "limit of memory, in bytes; -1 for none"},
	{"memory-reservation", "soft limit of memory, in bytes"},
	{"memory-swap", "limit of memory and swap, in bytes; -1 for none"},
	{"pids-limit", "limit of processes; -1 for none"},
	{"kernel-memory", ""},
	{"kernel-memory-tcp", ""},
	{"l3-cache-schema", ""},
	{"mem-bw-schema", ""},
}

// update changes the limits of a container.
func (a *app) update(ctx context.Context, args []string) error {
	l := limits{values: map[string]*string{}}
	f := a.flags("update")
	f.StringVar(&l.resources, "resources", "", "file with the limits as the spec's linux.resources, - for standard input; no other flag counts then")
	f.alias("r", "resources")
	for _, lf := range limitFlags {
		l.values[lf.name] = f.String(lf.name, "", lf.about)
	}
	f.alias("m", "memory")
	id, err := a.one(f, args)
	if err != nil {
		return err
	}
	e, err := a.store().openLocked(ctx, id)
	if err != nil {
		return err
	}
	defer e.release()
	r, err := a.readLimits(l)
	if err != nil {
		return err
	}
	status, err := e.status()
	if err != nil {
		return err
	}
	if status == specs.StateStopped {
		return errNotRunning
	}
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	return c.Update(ctx, r)
}

func (a *app) readLimits(l limits) (*specs.LinuxResources, error) {
	var b []byte
	var err error
	switch l.resources {
	case "":
		return l.parse()
	case "-":
		b, err = readAll(a.In, "standard input", maxConfig)
	default:
		b, err = readFile(l.resources, maxConfig)
	}
	if err != nil {
		return nil, err
	}
	var r specs.LinuxResources
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	r.Devices = nil // an update changes limits only, as runc's
	return &r, nil
}

// parse makes resources of the flags.
func (l limits) parse() (*specs.LinuxResources, error) {
	for _, name := range []string{"l3-cache-schema", "mem-bw-schema"} {
		if *l.values[name] != "" {
			return nil, fmt.Errorf("--%s: Intel RDT is not supported", name)
		}
	}
	var errs []error
	cpu, mem := &specs.LinuxCPU{Cpus: *l.values["cpuset-cpus"], Mems: *l.values["cpuset-mems"]}, &specs.LinuxMemory{}
	cpu.Shares = number[uint64](l, "cpu-share", &errs)
	cpu.Period = number[uint64](l, "cpu-period", &errs)
	cpu.Quota = number[int64](l, "cpu-quota", &errs)
	cpu.Burst = number[uint64](l, "cpu-burst", &errs)
	cpu.RealtimePeriod = number[uint64](l, "cpu-rt-period", &errs)
	cpu.RealtimeRuntime = number[int64](l, "cpu-rt-runtime", &errs)
	cpu.Idle = number[int64](l, "cpu-idle", &errs)
	mem.Limit = size(l, "memory", &errs)
	mem.Reservation = size(l, "memory-reservation", &errs)
	mem.Swap = size(l, "memory-swap", &errs)
	r := &specs.LinuxResources{CPU: cpu, Memory: mem, BlockIO: &specs.LinuxBlockIO{Weight: number[uint16](l, "blkio-weight", &errs)}}
	if n := number[int64](l, "pids-limit", &errs); n != nil {
		r.Pids = &specs.LinuxPids{Limit: n}
	}
	return r, errors.Join(errs...)
}

func number[T int64 | uint64 | uint16](l limits, name string, errs *[]error) *T {
	s := *l.values[name]
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	v := T(n)
	if err == nil && int64(v) != n {
		err = strconv.ErrRange
	}
	if err != nil {
		*errs = append(*errs, fmt.Errorf("invalid value for %s: %w", name, err))
		return nil
	}
	return &v
}

// units are those of memory sizes: powers of 1024.
var units = map[byte]int64{'b': 1, 'k': 1 << 10, 'm': 1 << 20, 'g': 1 << 30, 't': 1 << 40}

// size reads bytes, with a unit perhaps: 64m, 64mb, 64MiB.
func size(l limits, name string, errs *[]error) *int64 {
	s := *l.values[name]
	if s == "" {
		return nil
	}
	end := len(s)
	for end > 0 && (s[end-1] < '0' || s[end-1] > '9') {
		end--
	}
	unit := int64(1)
	if suffix := s[end:]; suffix != "" {
		u, ok := units[suffix[0]|0x20]
		if rest := suffix[1:]; !ok || (rest != "" && rest != "b" && rest != "B" && rest != "iB" && rest != "ib") {
			*errs = append(*errs, fmt.Errorf("invalid value for %s: %q is no size", name, s))
			return nil
		}
		unit = u
	}
	n, err := strconv.ParseInt(s[:end], 10, 64)
	if err == nil && n*unit/unit != n {
		err = strconv.ErrRange
	}
	if err != nil {
		*errs = append(*errs, fmt.Errorf("invalid value for %s: %w", name, err))
		return nil
	}
	n *= unit
	return &n
}
