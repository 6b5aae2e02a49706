package engine

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

var cloneFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
	specs.UserNamespace: unix.CLONE_NEWUSER, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// namespace finds the spec's namespace of a type.
func namespace(s *specs.Spec, t specs.LinuxNamespaceType) (ns specs.LinuxNamespace, ok bool) {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == t {
			return ns, true
		}
	}
	return specs.LinuxNamespace{}, false
}

func (c *Container) newNamespace(t specs.LinuxNamespaceType) bool {
	ns, ok := namespace(c.spec, t)
	return ok && ns.Path == ""
}

// inUserNamespace tells whether the container has a user namespace, new or joined.
func inUserNamespace(s *specs.Spec) bool {
	_, ok := namespace(s, specs.UserNamespace)
	return ok
}

// twoSteps tells whether the child has to be born twice: namespaces have to belong to a user namespace, and
// a time namespace is entered by birth.
func twoSteps(s *specs.Spec) bool {
	t, ok := namespace(s, specs.TimeNamespace)
	return inUserNamespace(s) || ok && t.Path == ""
}

// buildFlags is CLONE_NEWNS for a container that only builds its root filesystem in a mount namespace of its own.
func (c *Container) buildFlags() uintptr {
	if c.shared {
		return unix.CLONE_NEWNS
	}
	return 0
}

// clone starts the child in its new namespaces.
func (c *Container) clone(o CreateOptions) (*stage.Stage, error) {
	l, err := launcher()
	if err != nil {
		return nil, err
	}
	a := stage.Attr{Stdin: o.Stdio.In, Stdout: o.Stdio.Out, Stderr: o.Stdio.Err, Extra: o.Files}
	if !c.twoSteps {
		a.Cloneflags = c.buildFlags()
	}
	var joinPID *os.File
	for _, ns := range o.Spec.Linux.Namespaces {
		switch {
		case ns.Type == specs.PIDNamespace && ns.Path != "":
			f, err := openNamespace(ns)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			joinPID = f
		case ns.Type == specs.MountNamespace && c.blank != nil: // join takes it there
		case ns.Path == "" && ns.Type != specs.CgroupNamespace && !c.twoSteps: // a cgroup namespace must follow the join
			a.Cloneflags |= cloneFlags[ns.Type]
		}
	}
	if v2, err := c.group.FD(); err == nil && c.scopes == nil {
		defer v2.Close()
		a.Cgroup = v2
	}
	return startIn(joinPID, func() (*stage.Stage, error) { return l.Start(a) })
}

// follow makes the child of s the container's first process.
func (c *Container) follow(s *stage.Stage) (err error) {
	c.stage = s
	c.init = newProcess(s.Pid, s.PidFD, true)
	c.state.Pid = s.Pid
	c.state.StartTime, err = startTime(s.Pid)
	return err
}

// openNamespace opens the file of a namespace to join.
func openNamespace(ns specs.LinuxNamespace) (*os.File, error) {
	f, err := os.Open(ns.Path)
	if err != nil {
		return nil, fmt.Errorf("linux.namespaces: %s: %w", ns.Type, err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || uintptr(kind) != cloneFlags[ns.Type] {
		f.Close()
		return nil, fmt.Errorf("linux.namespaces: %s: %s is not a %s namespace", ns.Type, ns.Path, ns.Type)
	}
	return f, nil
}

// secondStep joins what is joined by path, with the privileges that this process has, the user namespace
// last; then the child is born again in the new namespaces, which belong to the user namespace.
func (c *Container) secondStep(ctx context.Context, o CreateOptions) error {
	var files []*os.File
	defer func() { closeAll(files) }()
	p := &stage.Program{}
	entries, err := c.group.Entries()
	if err != nil {
		return err
	}
	files = append(files, entries...)
	joinGroup(p, entries)
	joined, err := c.joinNamespaces(p)
	files = append(files, joined...)
	if err != nil {
		return err
	}
	flags := c.buildFlags()
	for _, ns := range o.Spec.Linux.Namespaces {
		switch {
		case ns.Path != "":
		case ns.Type == specs.TimeNamespace:
			p.Do("new time namespace", unix.SYS_UNSHARE, stage.Int(unix.CLONE_NEWTIME))
		default:
			flags |= cloneFlags[ns.Type]
		}
	}
	if err := c.stage.Run(ctx, p); err != nil {
		return childError(err)
	}
	if err := setTimeOffsets(c.stage.Pid, o.Spec.Linux.TimeOffsets); err != nil {
		return err
	}
	if err := c.stage.Fork(ctx, flags); err != nil {
		return childError(err)
	}
	if err := c.follow(c.stage); err != nil {
		return err
	}
	return c.becomeRoot(ctx)
}

// becomeRoot gives a new user namespace its maps and makes the child the root of its user namespace.
func (c *Container) becomeRoot(ctx context.Context) error {
	if !inUserNamespace(c.spec) {
		return nil
	}
	if c.newNamespace(specs.UserNamespace) {
		if err := writeMaps(c.stage.Pid, c.spec.Linux.UIDMappings, c.spec.Linux.GIDMappings); err != nil {
			return err
		}
	}
	p := &stage.Program{}
	namespaceRoot(p)
	if err := c.stage.Run(ctx, p); err != nil {
		return childError(err)
	}
	return nil
}

// namespaceRoot makes the child the root of the user namespace that it has entered. One that maps no 0 has
// none: the child then stays what it is, with all capabilities there.
func namespaceRoot(p *stage.Program) {
	zero := stage.Int(0)
	p.Do("drop the host's groups", unix.SYS_SETGROUPS, zero, zero).Tolerate(unix.EPERM) // where setgroups is denied
	p.Do("become the user namespace's root group", unix.SYS_SETRESGID, zero, zero, zero).Tolerate(unix.EINVAL)
	p.Do("become the user namespace's root", unix.SYS_SETRESUID, zero, zero, zero).Tolerate(unix.EINVAL)
}

// joinNamespaces adds the joining of all namespaces with a path but the pid namespace, which a
// child is born in. The user namespace comes last: in it, the child may not join the others any more.
func (c *Container) joinNamespaces(p *stage.Program) (files []*os.File, err error) {
	var user *os.File
	for _, ns := range c.spec.Linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.PIDNamespace || ns.Type == specs.MountNamespace && c.shared {
			continue
		}
		f, err := openNamespace(ns)
		if err != nil {
			return files, err
		}
		files = append(files, f)
		if ns.Type == specs.UserNamespace {
			user = f
			continue
		}
		p.Do(fmt.Sprintf("join %s namespace %s", ns.Type, ns.Path), unix.SYS_SETNS, p.File(f), stage.Int(cloneFlags[ns.Type]))
	}
	if user != nil {
		p.Do("join user namespace "+user.Name(), unix.SYS_SETNS, p.File(user), stage.Int(unix.CLONE_NEWUSER))
	}
	return files, nil
}

// setTimeOffsets writes the offsets of the time namespace that the children of process pid will be in
// (time_namespaces(7)).
func setTimeOffsets(pid int, offsets map[string]specs.LinuxTimeOffset) error {
	var lines strings.Builder
	for clock, o := range offsets {
		fmt.Fprintf(&lines, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	if lines.Len() == 0 {
		return nil
	}
	if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/timens_offsets", []byte(lines.String()), 0); err != nil {
		return fmt.Errorf("linux.timeOffsets: %w", err)
	}
	return nil
}
