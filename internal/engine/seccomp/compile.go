package seccomp

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A section decides for one AUDIT_ARCH value. It is a map from ranges of system call numbers to outcomes;
// neighbours with the same outcome are one range, so that the hundreds of allowed calls come to some dozen
// ranges, which the program searches by halving.

// segment is a range: from start to the next segment's start.
type segment struct {
	start   uint32
	outcome outcome
}

// outcome is what a number leads to: an action, or a chain of rules to try in order.
type outcome struct {
	action uint32 // that of chain < 0
	chain  int    // index in builder.chains, or -1
}

func act(action uint32) outcome { return outcome{action, -1} }

// entry is a rule for a number: the number in the high half, the rule's index in the low one, so that plain sorting brings
// each number's rules together in their order.
type entry uint64

func newEntry(nr uint32, rule int) entry { return entry(nr)<<32 | entry(rule) }

func (e entry) nr() uint32 { return uint32(e >> 32) }

func (e entry) rule() int { return int(uint32(e)) }

// program emits all sections, the last one first (see assembler).
func (p *profile) program() ([]Instruction, error) {
	b := &builder{profile: p}
	next := b.asm.ret(retKillProcess)
	audits := p.audits()
	for i := len(audits) - 1; i >= 0; i-- {
		head := b.section(audits[i])
		next = b.asm.jump(opJumpEqual, audits[i], head, next)
	}
	// The architecture is loaded once, and still in the accumulator at each section's check.
	b.asm.follow(next)
	b.asm.load(offsetArch)
	return b.asm.program()
}

// audits lists the AUDIT_ARCH values in the order of the architectures.
func (p *profile) audits() []uint32 {
	var list []uint32
	for _, a := range p.arches {
		if !slices.Contains(list, a.audit) {
			list = append(list, a.audit)
		}
	}
	return list
}

type builder struct {
	*profile
	asm    assembler
	chains [][]int         // rules by index
	known  map[string]int  // chain by its rules
	labels map[outcome]int // where an outcome's code begins; only chains
}

// section emits the code for the architectures of one AUDIT_ARCH value and returns its first instruction.
func (b *builder) section(audit uint32) label {
	b.labels = map[outcome]int{}
	var background []segment
	var entries []entry
	for _, a := range b.arches {
		if a.audit == audit {
			e, newest := b.entries(a)
			entries = append(entries, e...)
			background = append(background, b.background(a, newest)...)
		}
	}
	background = append(background, b.foreign(audit)...)
	slices.Sort(entries)
	tree := b.tree(b.segments(background, entries))
	b.asm.follow(tree)
	return b.asm.load(offsetNumber)
}

// entries lists an architecture's rules by number, in their order, and the newest number that the profile names, -1 if
// it names none.
func (b *builder) entries(a arch) (list []entry, newest int64) {
	list = make([]entry, 0, len(b.calls))
	newest = -1
	for _, c := range b.calls {
		nr := c.row.numbers[a.column]
		if nr < 0 || c.x86 && a.spec != specs.ArchX86 {
			continue
		}
		if uint32(nr) < a.end && !c.x86 {
			newest = max(newest, int64(nr))
		}
		if c.rule >= 0 {
			list = append(list, newEntry(uint32(nr), c.rule))
		}
	}
	return list, newest
}

// beyond is the action for numbers newer than the profile.
func (b *builder) beyond() uint32 {
	if b.stub {
		return retErrno | enosys
	}
	return b.fallback
}

// background is what holds for an architecture's numbers where no rule is.
func (b *builder) background(a arch, newest int64) []segment {
	list := []segment{{a.bit, act(b.fallback)}}
	if newest >= 0 && b.stub {
		list = append(list, segment{uint32(newest) + 1, act(b.beyond())})
	}
	return list
}

// foreign is what holds for numbers of x86_64 where only x32 is allowed, and the other way round: they belong to another
// architecture, though the kernel reports one AUDIT_ARCH for both. -1 is no number but what a tracer leaves.
func (b *builder) foreign(audit uint32) []segment {
	has := func(name specs.Arch) bool {
		return slices.ContainsFunc(b.arches, func(a arch) bool { return a.spec == name })
	}
	switch {
	case audit != arches[1].audit:
		return nil
	case !has(specs.ArchX86_64):
		return []segment{{0, act(retKillProcess)}}
	case !has(specs.ArchX32):
		return []segment{{x32Bit, act(retKillProcess)}, {1<<32 - 1, act(b.beyond())}}
	}
	return nil
}

// segments lays the rules over the background.
func (b *builder) segments(background []segment, entries []entry) []segment {
	slices.SortStableFunc(background, func(a, b segment) int { return cmp.Compare(a.start, b.start) })
	out := make([]segment, 0, 2*len(entries)+len(background))
	add := func(start uint32, o outcome) {
		switch n := len(out); {
		case n > 0 && out[n-1].outcome == o:
		case n > 0 && out[n-1].start == start:
			out[n-1].outcome = o
			if n > 1 && out[n-2].outcome == o {
				out = out[:n-1]
			}
		default:
			out = append(out, segment{start, o})
		}
	}
	under := outcome{}
	for len(entries) > 0 || len(background) > 0 {
		if len(entries) == 0 || len(background) > 0 && background[0].start <= entries[0].nr() {
			under = background[0].outcome
			add(background[0].start, under)
			background = background[1:]
			continue
		}
		nr := entries[0].nr()
		n := 1
		for n < len(entries) && entries[n].nr() == nr {
			n++
		}
		add(nr, b.decide(entries[:n]))
		entries = entries[n:]
		if len(background) == 0 || background[0].start > nr+1 {
			add(nr+1, under)
		}
	}
	return out
}

// decide finds a number's outcome: the first rule without conditions, or the chain of all.
func (b *builder) decide(list []entry) outcome {
	for _, e := range list {
		if r := b.rules[e.rule()]; len(r.conds) == 0 {
			return act(r.action)
		}
	}
	chain := make([]int, 0, len(list))
	for _, e := range list {
		if !slices.Contains(chain, e.rule()) {
			chain = append(chain, e.rule())
		}
	}
	key := fmt.Sprint(chain)
	i, ok := b.known[key]
	if !ok {
		if b.known == nil {
			b.known = map[string]int{}
		}
		i = len(b.chains)
		b.chains = append(b.chains, chain)
		b.known[key] = i
	}
	return outcome{chain: i}
}

// tree emits the search for a number among segments and returns its first instruction.
func (b *builder) tree(segs []segment) label {
	if len(segs) == 1 {
		return b.leaf(segs[0].outcome)
	}
	mid := len(segs) / 2
	high := b.tree(segs[mid:])
	low := b.tree(segs[:mid])
	return b.asm.jump(opJumpGreaterEqual, segs[mid].start, high, low)
}

func (b *builder) leaf(o outcome) label {
	if o.chain < 0 {
		return b.asm.ret(o.action)
	}
	if at, ok := b.labels[o]; ok {
		return label(at)
	}
	next := b.asm.ret(b.fallback)
	chain := b.chains[o.chain]
	for i := len(chain) - 1; i >= 0; i-- {
		r := b.rules[chain[i]]
		yes := b.asm.ret(r.action)
		for c := len(r.conds) - 1; c >= 0; c-- {
			yes = b.condition(r.conds[c], yes, next)
		}
		next = yes
	}
	b.labels[o] = int(next)
	return next
}

// condition emits the test of an argument and returns its first instruction. The machine has 32 bits, so the
// high halves are compared first.
func (b *builder) condition(c condition, yes, no label) label {
	switch c.op {
	case specs.OpNotEqual:
		c.op, yes, no = specs.OpEqualTo, no, yes
	case specs.OpLessThan:
		c.op, yes, no = specs.OpGreaterEqual, no, yes
	case specs.OpLessEqual:
		c.op, yes, no = specs.OpGreaterThan, no, yes
	}
	lo, hi := uint32(c.value), uint32(c.value>>32)
	at := uint32(offsetArgs + 8*c.arg)
	switch c.op {
	case specs.OpEqualTo, specs.OpMaskedEqual:
		mask := c.mask
		if c.op == specs.OpEqualTo {
			mask = ^uint64(0)
		}
		low := b.half(at, uint32(mask), lo, yes, no)
		return b.half(at+4, uint32(mask>>32), hi, low, no)
	}
	op := uint16(opJumpGreaterEqual)
	if c.op == specs.OpGreaterThan {
		op = opJumpGreater
	}
	b.asm.follow(b.asm.jump(op, lo, yes, no))
	low := b.asm.load(at)
	same := b.asm.jump(opJumpEqual, hi, low, no)
	b.asm.follow(b.asm.jump(opJumpGreater, hi, yes, same))
	return b.asm.load(at + 4)
}

// half compares 32 bits under a mask.
func (b *builder) half(at, mask, value uint32, yes, no label) label {
	if mask == 0 { // nothing to look at
		if value == 0 {
			return yes
		}
		return no
	}
	b.asm.follow(b.asm.jump(opJumpEqual, value, yes, no))
	if mask != 1<<32-1 {
		b.asm.and(mask)
	}
	return b.asm.load(at)
}
