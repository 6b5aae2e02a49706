package stage

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"weak"

	"golang.org/x/sys/unix"
)

// Arg is one argument of a system call in the child.
type Arg struct {
	value uint64
	kind  argKind
}

// maxArgs is how many arguments a system call has.
const maxArgs = 6

type argKind uint8

const (
	immediate argKind = iota
	inData            // an offset in the program's data
	loaded            // an address in the child: a 32-bit value is loaded from there
)

// Int is a plain number.
func Int[T ~int | ~int8 | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{value: uint64(v)}
}

// Cell is a place in the child that keeps a call's result over batches: a descriptor, mostly.
type Cell struct{ addr uint64 }

// Value passes the cell's content as a 32-bit number.
func (c Cell) Value() Arg { return Arg{value: c.addr, kind: loaded} }

// Address passes the cell's address.
func (c Cell) Address() Arg { return Arg{value: c.addr} }

// Answered returns the n-th of the sixteen cells whose content comes back with each answer.
func Answered(n int) Cell { return Cell{addr: cellAddr + 8*uint64(n)} }

// Instruction is one system call of a program; its methods refine what has just been added.
type Instruction struct {
	what     string
	nr       uint64
	values   [maxArgs]uint64
	kinds    [maxArgs]argKind
	out      uint64
	tolerate uint64
	onError  *Label // where a tolerated error goes, nil: on
	goTo     *Label
}

// Into stores the result in c.
func (i *Instruction) Into(c Cell) *Instruction { i.out = c.addr; return i }

// Tolerate names up to four errnos that are no failure.
func (i *Instruction) Tolerate(errnos ...unix.Errno) *Instruction {
	for n, e := range errnos {
		i.tolerate |= uint64(e) << (16 * n)
	}
	return i
}

// TolerateAny makes every error no failure.
func (i *Instruction) TolerateAny() *Instruction { i.tolerate = 0xffff; return i }

// ElseGoTo continues at l after a tolerated error.
func (i *Instruction) ElseGoTo(l *Label) *Instruction { i.onError = l; return i }

// Label is a place in a program. Its zero value is ready; Program.Mark sets it.
type Label struct {
	index int
	set   bool
}

// Program is a list of system calls to be made by the child. It is built once and run once; it is not
// safe for concurrent use. The zero value is an empty program.
type Program struct {
	memory
	from *memory // what release gives back, nil before the first call or argument
	fds  []*os.File
}

// memory is used again by later programs: a container's start has dozens, of hundreds of calls.
type memory struct {
	ins  []*Instruction // up to its capacity it may hold some to be used again
	data []byte
	ptrs []int // offsets in data that hold an offset in data, to be made an address
}

const (
	// maxShelved bounds how many memories are kept, maxKept the data in each: a container's arguments may be longer.
	maxShelved = 8
	maxKept    = 16 << 10
)

// shelf keeps memories until the next collection. (A sync.Pool keeps them until the one after, so for good in a shim that
// rests.)
type shelf struct {
	mu   sync.Mutex
	free []weak.Pointer[memory]
}

var memories shelf

func (s *shelf) take() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := len(s.free); n > 0; n = len(s.free) {
		m := s.free[n-1].Value()
		s.free = s.free[:n-1]
		if m != nil {
			return m
		}
	}
	return new(memory)
}

func (s *shelf) put(m *memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < maxShelved {
		s.free = append(s.free, weak.Make(m))
	}
}

func (p *Program) begin() {
	if p.from == nil {
		p.from = memories.take()
		p.memory = *p.from
	}
}

// release ends the use of a program that was run. It is empty then.
func (p *Program) release() {
	m := p.from
	if m == nil {
		return
	}
	for _, i := range p.ins {
		*i = Instruction{}
	}
	*m = memory{p.ins[:0], p.data[:0], p.ptrs[:0]}
	if cap(m.data) > maxKept {
		m.data = nil
	}
	*p = Program{}
	memories.put(m)
}

// Do adds a system call. what says in an error message what the call is for: "mount /proc".
func (p *Program) Do(what string, nr uintptr, args ...Arg) *Instruction {
	i := p.add(what, uint64(nr))
	i.take(args)
	return i
}

func (p *Program) add(what string, nr uint64) *Instruction {
	p.begin()
	n := len(p.ins)
	if n < cap(p.ins) && p.ins[:n+1][n] != nil {
		p.ins = p.ins[:n+1]
	} else {
		p.ins = append(p.ins, new(Instruction))
	}
	p.ins[n].what, p.ins[n].nr = what, nr
	return p.ins[n]
}

func (i *Instruction) take(args []Arg) {
	for n, a := range args[:min(len(args), maxArgs)] {
		i.values[n], i.kinds[n] = a.value, a.kind
	}
}

const (
	opEnd  = ^uint64(0)     // -1
	opJump = ^uint64(0) - 1 // -2
)

// GoTo adds a jump.
func (p *Program) GoTo(l *Label) {
	p.add("", opJump).goTo = l
}

// Mark sets l to the next instruction.
func (p *Program) Mark(l *Label) { l.index, l.set = len(p.ins), true }

// Empty reports whether the program has no instruction.
func (p *Program) Empty() bool { return len(p.ins) == 0 }

// String passes a NUL-terminated string by address.
func (p *Program) String(s string) Arg {
	p.begin()
	off := len(p.data)
	p.data = append(append(p.data, s...), 0)
	return p.since(off)
}

// Bytes passes b by address, aligned to eight bytes.
func (p *Program) Bytes(b []byte) Arg {
	p.begin()
	off := len(p.data)
	p.data = append(p.data, b...)
	return p.since(off)
}

// since passes what lies in the data from off on.
func (p *Program) since(off int) Arg {
	for len(p.data)%8 != 0 {
		p.data = append(p.data, 0)
	}
	return Arg{value: uint64(off), kind: inData}
}

// Words passes an array of 64-bit numbers by address; Args of kind String or Bytes become pointers in it.
func (p *Program) Words(words ...Arg) Arg {
	p.begin()
	off := len(p.data)
	for _, w := range words {
		if w.kind == inData {
			p.ptrs = append(p.ptrs, len(p.data))
		}
		p.data = binary.LittleEndian.AppendUint64(p.data, w.value)
	}
	return p.since(off)
}

// Strings passes a NULL-terminated array of strings, as execve wants its argv and envp.
func (p *Program) Strings(list []string) Arg {
	words := make([]Arg, 0, len(list)+1)
	for _, s := range list {
		words = append(words, p.String(s))
	}
	return p.Words(append(words, Int(0))...)
}

// File passes a descriptor: the child gets a duplicate of f for this batch and until it executes.
// The caller closes f after Run.
func (p *Program) File(f *os.File) Arg {
	n := len(p.fds)
	p.fds = append(p.fds, f)
	return Arg{value: fdsAddr + 4*uint64(n), kind: loaded}
}

const instructionSize = 88

// isBig tells that code and data do not fit into one packet.
func (p *Program) isBig() bool { return instructionSize*(len(p.ins)+2)+len(p.data) > batchSize }

// assemble lays the program out for the child, in room's memory if it suffices. Data that does not fit into the packet
// is returned as big, to be mapped at bigAddr by the first instruction.
func (p *Program) assemble(room []byte) (batch, big []byte, err error) {
	first := 0 // instructions put before the program's own
	if p.isBig() {
		first = 1
	}
	codeLen := instructionSize * (first + len(p.ins) + 1)
	if codeLen > batchSize || len(p.fds) > 253 {
		return nil, nil, fmt.Errorf("stage: program of %d calls and %d descriptors is too long", len(p.ins)+1, len(p.fds))
	}
	base := uint64(batchAddr + codeLen)
	b := room[:0]
	if first == 1 {
		base = bigAddr
		b = appendInstruction(b, mapBig(len(p.fds), len(p.data)), base, 0)
	} else {
		b = slices.Grow(b, codeLen+len(p.data))
	}
	for _, i := range p.ins {
		for _, l := range []*Label{i.onError, i.goTo} {
			if l != nil && !l.set {
				return nil, nil, fmt.Errorf("stage: %s: jump to a label that was never set", i.what)
			}
		}
		b = appendInstruction(b, i, base, first)
	}
	b = appendInstruction(b, &Instruction{nr: opEnd}, base, first)
	if first == 1 {
		big = slices.Clone(p.data)
		p.resolve(big, base)
		return b, big, nil
	}
	b = append(b, p.data...)
	p.resolve(b[codeLen:], base)
	return b, nil, nil
}

// resolve makes addresses of the offsets in data, which is the program's and begins at base in the child.
func (p *Program) resolve(data []byte, base uint64) {
	for _, off := range p.ptrs {
		binary.LittleEndian.PutUint64(data[off:], base+binary.LittleEndian.Uint64(data[off:]))
	}
}

// mapBig maps the descriptor behind the program's own n ones.
func mapBig(n, size int) *Instruction {
	i := &Instruction{what: "map arguments", nr: unix.SYS_MMAP}
	i.take([]Arg{
		Int(bigAddr), Int(size), Int(unix.PROT_READ | unix.PROT_WRITE), Int(unix.MAP_PRIVATE | unix.MAP_FIXED),
		{value: fdsAddr + 4*uint64(n), kind: loaded}, Int(0),
	})
	return i
}

func appendInstruction(b []byte, i *Instruction, dataAt uint64, first int) []byte {
	place := func(l *Label) uint64 {
		if l == nil {
			return 0
		}
		return batchAddr + instructionSize*uint64(l.index+first)
	}
	put := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	put(i.nr)
	var mask uint64
	for n, v := range i.values {
		switch {
		case i.goTo != nil && n == 0:
			v = place(i.goTo)
		case i.kinds[n] == inData:
			v += dataAt
		case i.kinds[n] == loaded:
			mask |= 1 << n
		}
		put(v)
	}
	put(i.out)
	put(mask)
	put(i.tolerate)
	put(place(i.onError))
	return b
}
