package engine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// What the kernel keeps a process by: scheduler, I/O priority, CPUs, memory nodes, execution domain. Each is set on the child
// before it executes the program, which inherits it.

var schedulers = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR, specs.SchedBatch: unix.SCHED_BATCH,
	specs.SchedISO: 4, specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedulerFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: unix.SCHED_FLAG_RESET_ON_FORK, specs.SchedFlagReclaim: unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun: unix.SCHED_FLAG_DL_OVERRUN, specs.SchedFlagKeepPolicy: unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams: unix.SCHED_FLAG_KEEP_PARAMS, specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

// linux/mempolicy.h
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
	specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFNumaBalancing: 1 << 13, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFStaticNodes: 1 << 15,
}

var personalities = map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}

// validateAttributes names the field of a value that nobody knows.
func validateAttributes(p *specs.Process) error {
	if s := p.Scheduler; s != nil {
		if _, ok := schedulers[s.Policy]; !ok {
			return fmt.Errorf("process.scheduler.policy: unknown value %q", s.Policy)
		}
		for _, f := range s.Flags {
			if _, ok := schedulerFlags[f]; !ok {
				return fmt.Errorf("process.scheduler.flags: unknown value %q", f)
			}
		}
	}
	if io := p.IOPriority; io != nil {
		if _, ok := ioClasses[io.Class]; !ok || io.Priority < 0 || io.Priority > 7 {
			return fmt.Errorf("process.ioPriority: unknown class %q, or priority %d is not in 0..7", io.Class, io.Priority)
		}
	}
	if a := p.ExecCPUAffinity; a != nil {
		for field, list := range map[string]string{"initial": a.Initial, "final": a.Final} {
			if _, err := parseNumbers(list, maxCPU); err != nil {
				return fmt.Errorf("process.execCPUAffinity.%s: %w", field, err)
			}
		}
	}
	return nil
}

func validateDomains(l *specs.Linux) error {
	if p := l.Personality; p != nil {
		if _, ok := personalities[p.Domain]; !ok || len(p.Flags) > 0 {
			return fmt.Errorf("linux.personality: unknown domain %q, or flags, of which there are none", p.Domain)
		}
	}
	m := l.MemoryPolicy
	if m == nil {
		return nil
	}
	if _, ok := memoryModes[m.Mode]; !ok {
		return fmt.Errorf("linux.memoryPolicy.mode: unknown value %q", m.Mode)
	}
	for _, f := range m.Flags {
		if _, ok := memoryFlags[f]; !ok {
			return fmt.Errorf("linux.memoryPolicy.flags: unknown value %q", f)
		}
	}
	if _, err := parseNumbers(m.Nodes, maxNode); err != nil {
		return fmt.Errorf("linux.memoryPolicy.nodes: %w", err)
	}
	return nil
}

// Limits of numbers in lists, well above those of any machine.
const (
	maxCPU  = 1023 // what unix.CPUSet holds
	maxNode = 1023
)

// parseNumbers reads a list such as "0-3,7".
func parseNumbers(list string, highest int) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a < 0 || b < a || b > highest {
			return nil, fmt.Errorf("%q is not a list of numbers and ranges up to %d", list, highest)
		}
		for n := a; n <= b; n++ {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// schedule sets scheduler and I/O priority of process pid.
func schedule(pid int, p *specs.Process) error {
	if io := p.IOPriority; io != nil {
		const whoProcess = 1
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, uintptr(pid), uintptr(ioClasses[io.Class]<<13|io.Priority)); errno != 0 {
			return fmt.Errorf("process.ioPriority: %w", errno)
		}
	}
	s := p.Scheduler
	if s == nil {
		return nil
	}
	attr := unix.SchedAttr{
		Policy: schedulers[s.Policy], Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	attr.Size = unix.SizeofSchedAttr
	for _, f := range s.Flags {
		attr.Flags |= schedulerFlags[f]
	}
	if err := unix.SchedSetAttr(pid, &attr, 0); err != nil {
		return fmt.Errorf("process.scheduler: %w", err)
	}
	return nil
}

// setCPUs binds process pid to a list of CPUs; an empty one changes nothing.
func setCPUs(pid int, field, list string) error {
	cpus, err := parseNumbers(list, maxCPU)
	if err != nil || len(cpus) == 0 {
		return err
	}
	var set unix.CPUSet
	for _, n := range cpus {
		set.Set(n)
	}
	if err := unix.SchedSetaffinity(pid, &set); err != nil {
		return fmt.Errorf("process.execCPUAffinity.%s %q: %w", field, list, err)
	}
	return nil
}

// domains sets what all processes of the container have.
func (e *execution) domains(l *specs.Linux) {
	if p := l.Personality; p != nil {
		e.do("set personality "+string(p.Domain), unix.SYS_PERSONALITY, stage.Int(personalities[p.Domain]))
	}
	m := l.MemoryPolicy
	if m == nil {
		return
	}
	mode := memoryModes[m.Mode]
	for _, f := range m.Flags {
		mode |= memoryFlags[f]
	}
	nodes, _ := parseNumbers(m.Nodes, maxNode) // validated
	mask, size := stage.Int(0), 0
	if len(nodes) > 0 {
		bits := make([]byte, (maxNode+1)/8)
		for _, n := range nodes {
			bits[n/8] |= 1 << (n % 8)
		}
		mask, size = e.p.Bytes(bits), maxNode+2 // the kernel counts one less
	}
	e.do("set memory policy "+string(m.Mode), unix.SYS_SET_MEMPOLICY, stage.Int(mode), mask, stage.Int(size))
}

// labels has the kernel's security modules confine the program that is executed next. The files are opened in a procfs
// that is attached nowhere: none of the container's mounts stands in for them (CVE-2019-19921, CVE-2023-28642).
func (e *execution) labels(pid int) (err error) {
	for _, l := range []struct{ field, label, own, common, text string }{
		{"process.apparmorProfile", e.process.ApparmorProfile, "apparmor/exec", "exec", "exec " + e.process.ApparmorProfile},
		{"process.selinuxLabel", e.process.SelinuxLabel, "selinux/exec", "exec", e.process.SelinuxLabel},
	} {
		if l.label == "" || l.label == "unconfined" && !hasAppArmor() {
			continue
		}
		proc, err := hostProc()
		if err != nil {
			return err
		}
		dir := "" + strconv.Itoa(pid) + "/attr/"
		how := e.p.Words(stage.Int(unix.O_WRONLY|unix.O_CLOEXEC), stage.Int(0), stage.Int(detachedProc))
		what, cell := l.field+" "+l.label, stage.Answered(0)
		var old, opened stage.Label
		e.do(what, unix.SYS_OPENAT2, e.p.File(proc), e.p.String(dir+l.own), how, stage.Int(24)).Into(cell).Tolerate(unix.ENOENT).ElseGoTo(&old)
		e.p.GoTo(&opened)
		e.p.Mark(&old) // before Linux 5.8 there is one file for whichever module is there
		e.do(what, unix.SYS_OPENAT2, e.p.File(proc), e.p.String(dir+l.common), how, stage.Int(24)).Into(cell)
		e.p.Mark(&opened)
		e.do(what, unix.SYS_WRITE, cell.Value(), e.p.String(l.text), stage.Int(len(l.text)))
		e.do("close", unix.SYS_CLOSE, cell.Value())
	}
	return nil
}

func hasAppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

func hasSELinux() bool {
	b, err := os.ReadFile("/proc/filesystems")
	return err == nil && strings.Contains(string(b), "selinuxfs")
}

// checkLabels refuses a label that nobody would heed.
func checkLabels(process *specs.Process) error {
	switch {
	case strings.ContainsAny(process.ApparmorProfile+process.SelinuxLabel, "\x00\n"):
		return errors.New("process.apparmorProfile or selinuxLabel holds a NUL byte or a line break")
	case process.ApparmorProfile != "" && process.ApparmorProfile != "unconfined" && !hasAppArmor():
		return fmt.Errorf("process.apparmorProfile %q: this kernel has no AppArmor, or it is switched off", process.ApparmorProfile)
	case process.SelinuxLabel != "" && !hasSELinux():
		return fmt.Errorf("process.selinuxLabel %q: this kernel has no SELinux, or it is switched off", process.SelinuxLabel)
	}
	return nil
}
