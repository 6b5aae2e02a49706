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

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Apply sets limits (runtime-spec config-linux.md, Control groups). Fields that are nil, empty or zero
// (except where zero means something) leave what is set as it is; -1 takes a limit away. Kernel memory limits
// are ignored, as the spec allows. Under v2, values are converted from their v1 units. The group exists.
func (g *Group) Apply(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for _, step := range []func(*specs.LinuxResources) error{
		g.applyDevices, g.applyCPU, g.applyCpuset, g.applyMemory, g.applyPids, g.applyBlockIO, g.applyHugepages,
		g.applyNetwork, g.applyRdma, g.applyUnified,
	} {
		if err := step(r); err != nil {
			return fmt.Errorf("limit cgroup %s: %w", g.Path(), err)
		}
	}
	return nil
}

// room is the group's directory in one hierarchy: where a controller's files are.
type room struct {
	g *Group
	h *hierarchy
}

// room finds the group's directory for a controller, by its v1 or v2 names. In a hybrid, a controller
// that only v2 has is enabled on the way.
func (g *Group) room(controllers ...string) (room, error) {
	h := g.h.find(controllers...)
	if h == nil {
		return room{}, fmt.Errorf("%w: no %s controller", ErrUnsupported, strings.Join(controllers, " or "))
	}
	if h.V2 && !g.h.unified {
		if err := g.enable(h, []string{controllers[len(controllers)-1]}); err != nil {
			return room{}, err
		}
	}
	return room{g, h}, nil
}

func (r room) path(file string) string { return r.h.dir.Path(r.g.rel + "/" + file) }

func (r room) has(file string) bool { return r.h.dir.Exists(r.g.rel + "/" + file) }

// set writes one value.
func (r room) set(file, value string) error {
	_, err := r.h.dir.Write(r.g.rel+"/"+file, value)
	return r.explain(err, file, value)
}

// setEach writes several values, each in a write of its own.
func (r room) setEach(file string, values []string) error {
	n, err := r.h.dir.Write(r.g.rel+"/"+file, values...)
	if err == nil {
		return nil
	}
	return r.explain(err, file, values[n])
}

func (r room) explain(err error, file, value string) error {
	var pathErr *fs.PathError
	if err == nil {
		return nil
	}
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrNotExist) && r.has("cgroup.procs") {
		return fmt.Errorf("write %q to %s: %w: no such file", value, r.path(file), ErrUnsupported)
	}
	return fmt.Errorf("write %q to %s: %w", value, r.path(file), err)
}

// get reads a file's first word.
func (r room) get(file string) (string, error) {
	text, err := r.h.dir.Read(r.g.rel+"/"+file, nil)
	if err != nil {
		return "", err
	}
	word, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte{' '})
	return string(word), nil
}

// change is one value for one file.
type change struct{ file, value string }

// settle writes values that bound each other (memory and memory+swap, quota and burst). One that is refused is
// tried again after another was taken, so that the order is right whether the limits grow or shrink.
func (r room) settle(todo []change) error {
	for len(todo) > 0 {
		var refused []change
		var first error
		for _, c := range todo {
			if err := r.set(c.file, c.value); err != nil {
				refused = append(refused, c)
				first = errors.Join(first, err)
			}
		}
		if len(refused) == len(todo) || first != nil && !errors.Is(first, syscall.EINVAL) && !errors.Is(first, syscall.EBUSY) {
			return first
		}
		todo = refused
	}
	return nil
}

// limit is a limit's text: -1 takes it away.
func limit(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

func number[T int64 | uint64 | uint32 | uint16](v T) string { return fmt.Sprint(v) }

func given[T comparable](p *T) bool {
	var zero T
	return p != nil && *p != zero
}

func (g *Group) applyPids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	room, err := g.room("pids")
	if err != nil {
		return err
	}
	return room.set("pids.max", limit(*r.Pids.Limit))
}

func (g *Group) applyHugepages(r *specs.LinuxResources) error {
	for _, l := range r.HugepageLimits {
		room, err := g.room("hugetlb")
		if err != nil {
			return err
		}
		if strings.ContainsAny(l.Pagesize, "/.") || l.Pagesize == "" {
			return fmt.Errorf("huge page size %q is not valid", l.Pagesize)
		}
		file, reserved := "hugetlb."+l.Pagesize+".limit_in_bytes", "hugetlb."+l.Pagesize+".rsvd.limit_in_bytes"
		if room.h.V2 {
			file, reserved = "hugetlb."+l.Pagesize+".max", "hugetlb."+l.Pagesize+".rsvd.max"
		}
		if err := room.set(file, number(l.Limit)); err != nil {
			return err
		}
		if room.has(reserved) {
			if err := room.set(reserved, number(l.Limit)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *Group) applyNetwork(r *specs.LinuxResources) error {
	if r.Network == nil {
		return nil
	}
	if given(r.Network.ClassID) {
		room, err := g.room("net_cls")
		if err != nil {
			return err
		}
		if err := room.set("net_cls.classid", number(*r.Network.ClassID)); err != nil {
			return err
		}
	}
	if len(r.Network.Priorities) == 0 {
		return nil
	}
	room, err := g.room("net_prio")
	if err != nil {
		return err
	}
	var values []string
	for _, p := range r.Network.Priorities {
		values = append(values, fmt.Sprintf("%s %d", p.Name, p.Priority))
	}
	return room.setEach("net_prio.ifpriomap", values)
}

func (g *Group) applyRdma(r *specs.LinuxResources) error {
	if len(r.Rdma) == 0 {
		return nil
	}
	room, err := g.room("rdma")
	if err != nil {
		return err
	}
	var values []string
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		value := device
		if l := r.Rdma[device]; l.HcaHandles != nil {
			value += " hca_handle=" + number(*l.HcaHandles)
		}
		if l := r.Rdma[device]; l.HcaObjects != nil {
			value += " hca_object=" + number(*l.HcaObjects)
		}
		values = append(values, value)
	}
	return room.setEach("rdma.max", values)
}

// applyUnified writes raw v2 files: the last word, after all that was converted.
func (g *Group) applyUnified(r *specs.LinuxResources) error {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		controller, _, ok := strings.Cut(file, ".")
		if !ok || controller == "" || strings.Contains(file, "/") {
			return fmt.Errorf("unified: %q is not the name of a cgroup v2 file", file)
		}
		var at room
		switch {
		case g.h.v2 == nil:
			return fmt.Errorf("unified %s: %w: no cgroup v2", file, ErrUnsupported)
		case controller == "cgroup":
			at = room{g, g.h.v2}
		default:
			var err error
			if at, err = g.room(controller); err != nil {
				return fmt.Errorf("unified %s: %w", file, err)
			}
			if !at.h.V2 {
				return fmt.Errorf("unified %s: %w: the %s controller is in cgroup v1", file, ErrUnsupported, controller)
			}
		}
		// Of io.max and its like the kernel takes one line at a time.
		if err := at.setEach(file, strings.Split(strings.TrimSpace(r.Unified[file]), "\n")); err != nil {
			return err
		}
	}
	return nil
}
