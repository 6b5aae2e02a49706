package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// SECCOMP_RET_*, include/uapi/linux/seccomp.h.
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	eperm  = 1
	enosys = 38
	// maxErrno is the largest errno that the kernel passes on.
	maxErrno = 4095
)

// profile is a parsed specs.LinuxSeccomp.
type profile struct {
	arches   []arch // the native one first
	fallback uint32 // the default action as the kernel's return value
	stub     bool   // calls newer than the profile get ENOSYS
	rules    []rule
	calls    []call
	unknown  []string
	notify   bool
}

// rule is an action under conditions, all of which must hold.
type rule struct {
	action uint32
	conds  []condition
}

// call says that a rule is for a system call.
type call struct {
	row  *syscallRow
	rule int  // index in profile.rules, or -1: only names the call
	x86  bool // for 32-bit x86 alone
}

type condition struct {
	arg   uint
	op    specs.LinuxSeccompOperator
	value uint64
	mask  uint64 // of OpMaskedEqual
}

func parse(s *specs.LinuxSeccomp) (*profile, error) {
	p := &profile{calls: make([]call, 0, 512)}
	var err error
	if p.arches, err = parseArches(s.Architectures); err != nil {
		return nil, err
	}
	if p.fallback, err = parseAction(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	switch s.DefaultAction {
	case specs.ActNotify:
		return nil, fmt.Errorf("%s can't be the default action: the listener could not even be handed over", specs.ActNotify)
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
	default:
		p.stub = true
	}
	for i, call := range s.Syscalls {
		if err := p.add(call); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
	}
	if p.notify && s.ListenerPath == "" {
		return nil, fmt.Errorf("%s needs a listenerPath", specs.ActNotify)
	}
	slices.Sort(p.unknown)
	p.unknown = slices.Compact(p.unknown)
	return p, nil
}

// parseArches puts the native architecture first: its check comes first in the program.
func parseArches(list []specs.Arch) ([]arch, error) {
	self, ok := native()
	if !ok {
		return nil, fmt.Errorf("this machine's architecture: %w", ErrUnsupported)
	}
	var out []arch
	for _, name := range append([]specs.Arch{self}, list...) {
		i := slices.IndexFunc(arches[:], func(a arch) bool { return a.spec == name })
		if i < 0 {
			return nil, fmt.Errorf("architecture %q: %w", name, ErrUnsupported)
		}
		if !slices.Contains(out, arches[i]) {
			out = append(out, arches[i])
		}
	}
	return out, nil
}

func parseAction(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	if ret, ok := plainAction(a); ok {
		if errno != nil {
			return 0, fmt.Errorf("action %s takes no errno", a)
		}
		return ret, nil
	}
	value := uint(eperm)
	if errno != nil {
		value = *errno
	}
	switch {
	case a == specs.ActErrno && value > maxErrno:
		return 0, fmt.Errorf("errno %d is above %d", value, maxErrno)
	case a == specs.ActErrno:
		return retErrno | uint32(value), nil
	case a == specs.ActTrace && value > 0xffff:
		return 0, fmt.Errorf("trace value %d is above 65535", value)
	case a == specs.ActTrace:
		return retTrace | uint32(value), nil
	}
	return 0, fmt.Errorf("action %q: %w", a, ErrUnsupported)
}

// plainAction translates actions without a value.
func plainAction(a specs.LinuxSeccompAction) (uint32, bool) {
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, true
	case specs.ActKillProcess:
		return retKillProcess, true
	case specs.ActTrap:
		return retTrap, true
	case specs.ActAllow:
		return retAllow, true
	case specs.ActLog:
		return retLog, true
	case specs.ActNotify:
		return retNotify, true
	}
	return 0, false
}

// add parses one rule of the spec; it may come to several of ours.
func (p *profile) add(s specs.LinuxSyscall) error {
	action, err := parseAction(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	if len(s.Names) == 0 {
		return errors.New("it names no system call")
	}
	variants, err := parseArgs(s.Args)
	if err != nil {
		return err
	}
	if s.Action == specs.ActNotify {
		p.notify = true
		if slices.Contains(s.Names, "write") {
			return fmt.Errorf("%s can't be used for write: the listener could not be handed over", specs.ActNotify)
		}
	}
	first := len(p.rules)
	if action != p.fallback {
		for _, conds := range variants {
			p.rules = append(p.rules, rule{action, conds})
		}
	}
	last := len(p.rules)
	for _, name := range s.Names {
		row, known := lookup(name)
		if known {
			p.calls = append(p.calls, call{row: row, rule: -1})
			for r := first; r < last; r++ {
				p.calls = append(p.calls, call{row: row, rule: r})
			}
		}
		if m, ok := multiplex(name); ok {
			known = true
			if len(s.Args) == 0 && action != p.fallback {
				p.addMultiplexed(m, action)
			}
		}
		if !known {
			p.unknown = append(p.unknown, name)
		}
	}
	return nil
}

func (p *profile) addMultiplexed(m multiplexed, action uint32) {
	row, _ := lookup(m.by)
	p.rules = append(p.rules, rule{action, []condition{{arg: 0, op: specs.OpEqualTo, value: m.arg}}})
	p.calls = append(p.calls, call{row: row, rule: len(p.rules) - 1, x86: true})
}

// parseArgs returns the alternatives: one that joins all conditions, or, if two of them look at the same argument, each
// by itself.
func parseArgs(args []specs.LinuxSeccompArg) ([][]condition, error) {
	var conds []condition
	var seen [6]bool
	again := false
	for _, a := range args {
		c := condition{arg: a.Index, op: a.Op, value: a.Value}
		switch a.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual, specs.OpLessThan:
		case specs.OpMaskedEqual: // the spec's value is the mask, its valueTwo what must be left
			c.mask, c.value = a.Value, a.ValueTwo
		default:
			return nil, fmt.Errorf("operator %q: %w", a.Op, ErrUnsupported)
		}
		if a.Index > 5 {
			return nil, fmt.Errorf("argument %d: a system call has six, from 0", a.Index)
		}
		again = again || seen[a.Index]
		seen[a.Index] = true
		conds = append(conds, c)
	}
	if !again {
		return [][]condition{conds}, nil
	}
	var each [][]condition
	for _, c := range conds {
		each = append(each, []condition{c})
	}
	return each, nil
}
