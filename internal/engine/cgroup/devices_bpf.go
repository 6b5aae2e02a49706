package cgroup

import "encoding/binary"

// eBPF opcodes (kernel's Documentation/bpf/standardization/instruction-set.rst) and registers: r0 is the
// answer, r1 the kernel's struct bpf_cgroup_dev_ctx {u32 access_type, major, minor}.
const (
	opLoadWord = 0x61 // dst = *(u32 *)(src + off)
	opMove     = 0xbf // dst = src
	opMoveImm  = 0xb7
	opAndImm   = 0x57
	opShiftImm = 0x77 // dst >>= imm
	opJumpEq   = 0x15 // if dst == imm: skip off instructions
	opJumpNe   = 0x55
	opExit     = 0x95

	regAnswer, regContext = 0, 1
	regKind, regAccess    = 2, 3
	regMajor, regMinor    = 4, 5
)

// BPF_DEVCG_DEV_*.
const (
	kindBlock = 1
	kindChar  = 2
)

type ebpf struct {
	op       byte
	dst, src byte
	off      int16
	imm      int32
}

// program is the policy as an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE. It decides as the v1 controller
// does: where denial is the default, one exception has to allow all that is asked; where permission is,
// one that denies a part is enough.
func (p devicePolicy) program() []byte {
	prog := []ebpf{
		{op: opLoadWord, dst: regKind, src: regContext},
		{op: opMove, dst: regAccess, src: regKind},
		{op: opAndImm, dst: regKind, imm: 0xffff},
		{op: opShiftImm, dst: regAccess, imm: 16},
		{op: opLoadWord, dst: regMajor, src: regContext, off: 4},
		{op: opLoadWord, dst: regMinor, src: regContext, off: 8},
	}
	for _, id := range p.sorted() {
		prog = append(prog, p.exception(id, p.exceptions[id])...)
	}
	answer := int32(0)
	if p.allow {
		answer = 1
	}
	prog = append(prog, ebpf{op: opMoveImm, dst: regAnswer, imm: answer}, ebpf{op: opExit})
	return assemble(prog)
}

// exception is a block that answers, or falls through to the next one.
func (p devicePolicy) exception(id deviceID, acc access) []ebpf {
	kind := int32(kindChar)
	if id.kind == 'b' {
		kind = kindBlock
	}
	block := []ebpf{{op: opJumpNe, dst: regKind, imm: kind}}
	if p.allow {
		block = append(block, ebpf{op: opMove, dst: regAnswer, src: regAccess},
			ebpf{op: opAndImm, dst: regAnswer, imm: int32(acc)}, ebpf{op: opJumpEq, dst: regAnswer, imm: 0})
	} else {
		block = append(block, ebpf{op: opMove, dst: regAnswer, src: regAccess},
			ebpf{op: opAndImm, dst: regAnswer, imm: int32(accessAll &^ acc)}, ebpf{op: opJumpNe, dst: regAnswer, imm: 0})
	}
	if id.major != wildcard {
		block = append(block, ebpf{op: opJumpNe, dst: regMajor, imm: int32(id.major)})
	}
	if id.minor != wildcard {
		block = append(block, ebpf{op: opJumpNe, dst: regMinor, imm: int32(id.minor)})
	}
	answer := int32(1)
	if p.allow {
		answer = 0
	}
	block = append(block, ebpf{op: opMoveImm, dst: regAnswer, imm: answer}, ebpf{op: opExit})
	for i := range block { // every jump of the block leads behind it
		if op := block[i].op; op == opJumpEq || op == opJumpNe {
			block[i].off = int16(len(block) - 1 - i)
		}
	}
	return block
}

func assemble(prog []ebpf) []byte {
	out := make([]byte, 0, 8*len(prog))
	for _, i := range prog {
		regs := i.src<<4 | i.dst
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 { // the nibbles follow the byte order
			regs = i.dst<<4 | i.src
		}
		out = append(out, i.op, regs)
		out = binary.NativeEndian.AppendUint16(out, uint16(i.off))
		out = binary.NativeEndian.AppendUint32(out, uint32(i.imm))
	}
	return out
}
