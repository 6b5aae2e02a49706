package cgroup

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (g *Group) applyMemory(r *specs.LinuxResources) error {
	m := r.Memory
	if m != nil && m.UseHierarchy != nil && !*m.UseHierarchy {
		return fmt.Errorf("memory useHierarchy false: %w: since Linux 5.11 a group always counts for those above it", ErrUnsupported)
	}
	if m == nil || !given(m.Limit) && !given(m.Swap) && !given(m.Reservation) && !given(m.KernelTCP) &&
		m.Swappiness == nil && !given(m.DisableOOMKiller) {
		return nil
	}
	room, err := g.room("memory")
	if err != nil {
		return err
	}
	if err := room.checkUsage(m); err != nil {
		return err
	}
	if room.h.V2 {
		return room.setMemoryV2(m)
	}
	return room.setMemoryV1(m)
}

// checkUsage refuses a limit below what is in use, if the spec asks for the check.
func (r room) checkUsage(m *specs.LinuxMemory) error {
	if !given(m.CheckBeforeUpdate) || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	file := "memory.usage_in_bytes"
	if r.h.V2 {
		file = "memory.current"
	}
	word, err := r.get(file)
	if err != nil {
		return err
	}
	if usage, err := strconv.ParseInt(word, 10, 64); err == nil && usage > *m.Limit {
		return fmt.Errorf("memory limit %d is below the %d bytes in use", *m.Limit, usage)
	}
	return nil
}

func (r room) setMemoryV1(m *specs.LinuxMemory) error {
	var todo []change
	if given(m.Limit) {
		todo = append(todo, change{"memory.limit_in_bytes", number(max(*m.Limit, -1))})
		if *m.Limit < 0 && !given(m.Swap) && r.has("memory.memsw.limit_in_bytes") {
			// No limit of memory within a limit of memory+swap would be none.
			todo = append(todo, change{"memory.memsw.limit_in_bytes", "-1"})
		}
	}
	if given(m.Swap) && (*m.Swap > 0 || r.has("memory.memsw.limit_in_bytes")) {
		todo = append(todo, change{"memory.memsw.limit_in_bytes", number(max(*m.Swap, -1))})
	}
	if err := r.settle(todo); err != nil {
		return err
	}
	if given(m.Reservation) {
		if err := r.set("memory.soft_limit_in_bytes", number(max(*m.Reservation, -1))); err != nil {
			return err
		}
	}
	if given(m.KernelTCP) {
		if err := r.set("memory.kmem.tcp.limit_in_bytes", number(max(*m.KernelTCP, -1))); err != nil {
			return err
		}
	}
	if m.Swappiness != nil {
		if err := r.set("memory.swappiness", number(*m.Swappiness)); err != nil {
			return err
		}
	}
	if given(m.DisableOOMKiller) {
		return r.set("memory.oom_control", "1")
	}
	return nil
}

func (r room) setMemoryV2(m *specs.LinuxMemory) error {
	if given(m.DisableOOMKiller) || m.Swappiness != nil || given(m.KernelTCP) {
		return fmt.Errorf("%w: cgroup v2 has no disableOOMKiller, swappiness or kernelTCP", ErrUnsupported)
	}
	swap, err := r.swapV2(m)
	if err != nil {
		return err
	}
	// Swap first: memory that a lower limit drives out then finds its place.
	if swap != "" {
		err := r.set("memory.swap.max", swap)
		// A kernel without swap has no such file, and keeps these two promises anyway.
		if errors.Is(err, ErrUnsupported) && (swap == "0" || swap == "max") {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if given(m.Limit) {
		if err := r.set("memory.max", limit(*m.Limit)); err != nil {
			return err
		}
	}
	if given(m.Reservation) {
		return r.set("memory.low", limit(*m.Reservation))
	}
	return nil
}

// swapV2 converts the spec's limit of memory+swap to v2's of swap alone; "" leaves it as it is.
func (r room) swapV2(m *specs.LinuxMemory) (string, error) {
	if !given(m.Swap) {
		if given(m.Limit) && *m.Limit < 0 {
			return "max", nil // as under v1: no limit of memory+swap either
		}
		return "", nil
	}
	if *m.Swap < 0 {
		return "max", nil
	}
	memory := int64(0)
	if given(m.Limit) {
		memory = *m.Limit
	} else {
		word, err := r.get("memory.max")
		if err != nil {
			return "", err
		}
		if memory, err = strconv.ParseInt(word, 10, 64); err != nil {
			return "", fmt.Errorf("memory+swap limit %d needs a memory limit", *m.Swap)
		}
	}
	switch {
	case memory < 0: // no limit of memory: take the value for swap alone
		return number(*m.Swap), nil
	case *m.Swap < memory:
		return "", fmt.Errorf("memory+swap limit %d is below the memory limit %d", *m.Swap, memory)
	}
	return number(*m.Swap - memory), nil
}
