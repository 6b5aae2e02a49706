// Package seccomp compiles the seccomp section of OCI specs to classic BPF programs for seccomp(2).
//
// It is pure translation: it makes no system call and loads nothing. Compile costs a few hundred
// microseconds at most; a caller that starts many containers keeps the Filter, which never changes.
//
// Semantics are those of libseccomp as runc and crun use it, so that a profile means the same here:
//
//   - The native architecture is always filtered; others that the profile lists are too. A system call
//     of any other architecture kills the process.
//   - A name that no table knows is skipped and reported in Filter.Unknown; a name that an
//     architecture lacks is skipped for that architecture.
//   - All argument conditions of a rule must hold. Only if two of them look at the same argument,
//     each one is a rule of its own (as in runc since its first version).
//   - A rule whose action is the default action does nothing. Of the others, the first without conditions
//     decides; if there is none, the first whose conditions hold; else the default action.
//   - Where the default action refuses (that is, neither allows, logs nor traces), a system call with a
//     number above all those that the profile names gets ENOSYS: it is newer than the profile, and a C
//     library then falls back to an older call, which it does not do after EPERM.
//   - Comparisons are of 64-bit values; arguments of 32-bit architectures are zero-extended.
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrUnsupported is wrapped by errors about architectures, actions, operators or flags that the
// compiler does not know.
var ErrUnsupported = errors.New("not supported by the seccomp compiler")

// Instruction is one classic BPF instruction, laid out as the kernel's struct sock_filter.
type Instruction struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// Filter is a compiled profile. It is not changed after Compile.
type Filter struct {
	// Program is what struct sock_fprog points to: at most 4096 instructions.
	Program []Instruction
	// Flags are SECCOMP_FILTER_FLAG_* for seccomp(2), without NEW_LISTENER.
	Flags uint
	// Notify tells that the program may answer SECCOMP_RET_USER_NOTIF: the loader adds
	// SECCOMP_FILTER_FLAG_NEW_LISTENER and hands the listener on.
	Notify bool
	// Unknown lists the names that no table knows, sorted; their rules were skipped.
	Unknown []string
}

// Compile translates a profile. A nil profile gives a nil Filter.
func Compile(s *specs.LinuxSeccomp) (*Filter, error) {
	if s == nil {
		return nil, nil
	}
	p, err := parse(s)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	f := &Filter{Notify: p.notify, Unknown: p.unknown}
	if f.Flags, err = flags(s.Flags, p.notify); err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	if f.Program, err = p.program(); err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	return f, nil
}

// Bytes is the program in this machine's memory layout, eight bytes an instruction.
func (f *Filter) Bytes() []byte {
	b := make([]byte, 0, 8*len(f.Program))
	for _, i := range f.Program {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// SECCOMP_FILTER_FLAG_*, include/uapi/linux/seccomp.h.
const (
	flagTsync            = 1 << 0
	flagLog              = 1 << 1
	flagSpecAllow        = 1 << 2
	flagWaitKillableRecv = 1 << 5
)

// flags translates the spec's flags. Without any, speculation mitigations are left as they are (SPEC_ALLOW), which is
// the kernel's own default since 5.16 and runc's on all.
func flags(list []specs.LinuxSeccompFlag, notify bool) (uint, error) {
	if list == nil {
		return flagSpecAllow, nil
	}
	var f uint
	for _, name := range list {
		switch name {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			f |= flagTsync
		case specs.LinuxSeccompFlagLog:
			f |= flagLog
		case specs.LinuxSeccompFlagSpecAllow:
			f |= flagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notify {
				return 0, fmt.Errorf("flag %s needs a rule with the action %s", name, specs.ActNotify)
			}
			f |= flagWaitKillableRecv
		default:
			return 0, fmt.Errorf("flag %q: %w", name, ErrUnsupported)
		}
	}
	return f, nil
}
