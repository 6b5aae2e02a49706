package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/sys"
)

// access is a set of what may be done with a device. The bits are those of the kernel's BPF_DEVCG_ACC_*.
type access uint8

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

// wildcard stands for every major or minor number.
const wildcard = int64(-1)

// deviceID is one device, or several by wildcards.
type deviceID struct {
	kind         byte // 'b' or 'c'
	major, minor int64
}

// devicePolicy is what a list of rules comes to: a default, and exceptions from it. It is how the kernel's
// v1 controller keeps them.
type devicePolicy struct {
	allow      bool // the default
	exceptions map[deviceID]access
}

// newDevicePolicy applies rules in their order, starting from denial.
func newDevicePolicy(rules []specs.LinuxDeviceCgroup) (devicePolicy, error) {
	p := devicePolicy{exceptions: map[deviceID]access{}}
	for _, r := range rules {
		if err := p.apply(r); err != nil {
			return p, fmt.Errorf("device rule %s: %w", describeRule(r), err)
		}
	}
	return p, nil
}

func describeRule(r specs.LinuxDeviceCgroup) string {
	n := func(p *int64) string {
		if p == nil {
			return "*"
		}
		return strconv.FormatInt(*p, 10)
	}
	return fmt.Sprintf("{allow %v, %q %s:%s %q}", r.Allow, r.Type, n(r.Major), n(r.Minor), r.Access)
}

func (p *devicePolicy) apply(r specs.LinuxDeviceCgroup) error {
	acc, err := parseAccess(r.Access)
	if err != nil {
		return err
	}
	var id deviceID
	if id.major, err = deviceNumber(r.Major); err != nil {
		return err
	}
	if id.minor, err = deviceNumber(r.Minor); err != nil {
		return err
	}
	switch r.Type {
	case "a", "":
		if id.major == wildcard && id.minor == wildcard && acc == accessAll {
			p.allow = r.Allow
			clear(p.exceptions)
			return nil
		}
		for _, id.kind = range []byte{'b', 'c'} {
			if err := p.except(id, acc, r.Allow); err != nil {
				return err
			}
		}
		return nil
	case "b", "c", "u":
		id.kind = r.Type[0]
		if r.Type == "u" { // an unbuffered character device is one
			id.kind = 'c'
		}
		return p.except(id, acc, r.Allow)
	}
	return fmt.Errorf("device type %q is not one of a, b, c", r.Type)
}

func deviceNumber(n *int64) (int64, error) {
	switch {
	case n == nil || *n == wildcard:
		return wildcard, nil
	case *n < 0 || *n > 1<<31-1:
		return 0, fmt.Errorf("device number %d is not valid", *n)
	}
	return *n, nil
}

// except adds an exception, or takes access away from those that there are.
func (p *devicePolicy) except(id deviceID, acc access, allow bool) error {
	if allow != p.allow {
		p.exceptions[id] |= acc
		return nil
	}
	for e, have := range p.exceptions {
		switch {
		case have&acc == 0 || !id.overlaps(e):
		case !id.covers(e):
			return errors.New("it would punch a hole into an earlier rule with wildcards")
		case have&^acc == 0:
			delete(p.exceptions, e)
		default:
			p.exceptions[e] = have &^ acc
		}
	}
	return nil
}

func (d deviceID) covers(e deviceID) bool {
	return d.kind == e.kind && (d.major == wildcard || d.major == e.major) && (d.minor == wildcard || d.minor == e.minor)
}

func (d deviceID) overlaps(e deviceID) bool {
	same := func(a, b int64) bool { return a == b || a == wildcard || b == wildcard }
	return d.kind == e.kind && same(d.major, e.major) && same(d.minor, e.minor)
}

func parseAccess(s string) (access, error) {
	if s == "" {
		return accessAll, nil
	}
	var a access
	for _, c := range s {
		switch c {
		case 'r':
			a |= accessRead
		case 'w':
			a |= accessWrite
		case 'm':
			a |= accessMknod
		default:
			return 0, fmt.Errorf("access %q is not made of r, w and m", s)
		}
	}
	return a, nil
}

func (a access) String() string {
	s := ""
	for i, c := range []string{"m", "r", "w"} {
		if a>>i&1 == 1 {
			s += c
		}
	}
	return s
}

// line is an exception as devices.allow and devices.deny take it: "c 1:3 rwm".
func (d deviceID) line(a access) string {
	n := func(v int64) string {
		if v == wildcard {
			return "*"
		}
		return strconv.FormatInt(v, 10)
	}
	return string(d.kind) + " " + n(d.major) + ":" + n(d.minor) + " " + a.String()
}

// sorted lists exceptions in a fixed order.
func (p devicePolicy) sorted() []deviceID {
	return slices.SortedFunc(maps.Keys(p.exceptions), func(a, b deviceID) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
}

// parseDeviceList reads devices.list. The kernel does not show the exceptions of a group that allows by default.
func parseDeviceList(text string) (p devicePolicy, err error) {
	var rules []specs.LinuxDeviceCgroup
	for line := range strings.Lines(text) {
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' || r == '\n' })
		if len(f) != 4 {
			return p, fmt.Errorf("devices.list: bad line %q", line)
		}
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[3]}
		for i, to := range []**int64{&rule.Major, &rule.Minor} {
			if n, err := strconv.ParseInt(f[1+i], 10, 64); err == nil {
				*to = &n
			} else if f[1+i] != "*" {
				return p, fmt.Errorf("devices.list: bad line %q", line)
			}
		}
		rules = append(rules, rule)
	}
	return newDevicePolicy(rules)
}

func (g *Group) applyDevices(r *specs.LinuxResources) error {
	if len(r.Devices) == 0 {
		return nil
	}
	want, err := newDevicePolicy(r.Devices)
	if err != nil {
		return err
	}
	if h := g.h.find("devices"); h != nil {
		return room{g, h}.setDevicesV1(want)
	}
	if g.h.v2 == nil {
		return fmt.Errorf("%w: no devices controller", ErrUnsupported)
	}
	return g.setDevicesV2(want)
}

// setDevicesV1 writes what changes only, so that a running container never loses a device that it keeps. Writes on an open
// file cost 2 µs each; a group that denies by default takes one for each exception.
func (r room) setDevicesV1(want devicePolicy) error {
	text, err := r.h.dir.Read(r.g.rel+"/devices.list", nil)
	if err != nil {
		return err
	}
	have, err := parseDeviceList(string(text))
	if err != nil {
		return err
	}
	if want.allow {
		// What a group that allows by default denies, the kernel does not show: start afresh.
		if err := r.set("devices.allow", "a"); err != nil {
			return err
		}
		return r.setLines("devices.deny", want, devicePolicy{})
	}
	if have.allow {
		if err := r.set("devices.deny", "a"); err != nil {
			return err
		}
		have = devicePolicy{}
	}
	if err := r.setLines("devices.allow", want, have); err != nil {
		return err
	}
	return r.setLines("devices.deny", have, want)
}

// setLines writes the exceptions of a that b lacks.
func (r room) setLines(file string, a, b devicePolicy) error {
	var lines []string
	for _, id := range a.sorted() {
		if more := a.exceptions[id] &^ b.exceptions[id]; more != 0 {
			lines = append(lines, id.line(more))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return r.setEach(file, lines)
}

func (g *Group) setDevicesV2(want devicePolicy) error {
	dir, err := g.h.v2.dir.Open(g.rel, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	prog, err := sys.LoadDeviceFilter(want.program())
	if err == nil {
		defer prog.Close()
		err = sys.ReplaceDeviceFilter(dir, prog)
	}
	if errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: device filters by BPF: %w", ErrUnsupported, err)
	}
	if err != nil {
		return &os.PathError{Op: "filter devices of", Path: g.Path(), Err: err}
	}
	return nil
}
