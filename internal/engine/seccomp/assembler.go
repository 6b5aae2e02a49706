package seccomp

import (
	"fmt"
	"slices"
)

// Opcodes of classic BPF (include/uapi/linux/bpf_common.h) and offsets in struct seccomp_data. The low half of
// an argument comes first: all architectures of the table are little-endian.
const (
	opLoad             = 0x20 // A = word at K of seccomp_data
	opAnd              = 0x54 // A &= K
	opJump             = 0x05 // skip K instructions
	opJumpEqual        = 0x15 // A == K: skip Jt, else Jf
	opJumpGreater      = 0x25
	opJumpGreaterEqual = 0x35
	opReturn           = 0x06

	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16

	maxInstructions = 4096 // BPF_MAXINSNS
	maxSkip         = 255
)

// label is the place of an instruction, counted from the program's end.
type label int

// assembler writes a program from its end to its beginning, for BPF jumps forwards only: whatever an instruction
// jumps to is already there, and its distance known.
//
// Code that is followed by what was emitted before it (load, and) falls through to it; jumps and
// returns never fall through, so anything may stand behind them.
type assembler struct {
	rev  []Instruction
	rets map[uint32]label // the newest return of each value
}

func (a *assembler) emit(i Instruction) label {
	a.rev = append(a.rev, i)
	return a.here()
}

// here is the instruction emitted last: the one that the next falls through to.
func (a *assembler) here() label { return label(len(a.rev) - 1) }

// skip is how many instructions lie between the next one to be emitted and l.
func (a *assembler) skip(l label) int { return len(a.rev) - 1 - int(l) }

// ret returns a place that returns value. Each value has one, and further ones where it has got too far away.
func (a *assembler) ret(value uint32) label {
	if l, ok := a.rets[value]; ok && a.skip(l) <= maxSkip-2 {
		return l
	}
	if a.rets == nil {
		a.rets = map[uint32]label{}
	}
	a.rets[value] = a.emit(Instruction{Code: opReturn, K: value})
	return a.rets[value]
}

// near returns a place from which l is reached and that a conditional jump, emitted after at most one more
// instruction, can reach.
func (a *assembler) near(l label) label {
	if a.skip(l) <= maxSkip-2 {
		return l
	}
	if i := a.rev[l]; i.Code == opReturn {
		return a.ret(i.K)
	}
	return a.always(l)
}

func (a *assembler) always(l label) label {
	return a.emit(Instruction{Code: opJump, K: uint32(a.skip(l))})
}

// jump emits a conditional jump. One that would lead to the same place either way is left out.
func (a *assembler) jump(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = a.near(yes)
	no = a.near(no)
	return a.emit(Instruction{Code: op, Jt: uint8(a.skip(yes)), Jf: uint8(a.skip(no)), K: k})
}

// follow makes sure that the next instruction falls through to l.
func (a *assembler) follow(l label) {
	if a.here() != l {
		a.always(l)
	}
}

func (a *assembler) load(offset uint32) label { return a.emit(Instruction{Code: opLoad, K: offset}) }

func (a *assembler) and(mask uint32) label { return a.emit(Instruction{Code: opAnd, K: mask}) }

// program returns the finished program in its order.
func (a *assembler) program() ([]Instruction, error) {
	if len(a.rev) > maxInstructions {
		return nil, fmt.Errorf("%d instructions are needed, the kernel takes %d", len(a.rev), maxInstructions)
	}
	slices.Reverse(a.rev)
	return a.rev, nil
}
