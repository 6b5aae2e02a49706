package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// execFailed is the exit code of an exec that has not come to run its program.
const execFailed = 255

// execution is what exec is told.
type execution struct {
	processFlags
	cwd, user, process, label, apparmor string
	env, gids, caps, cgroups            list
	tty, noNewPrivs, ignorePaused       bool
	flags                               *flagSet
}

func (x *execution) register(f *flagSet) {
	x.flags = f
	x.processFlags.register(f)
	f.StringVar(&x.cwd, "cwd", "", "working directory in the container")
	f.Var(&x.env, "env", "environment variable NAME=VALUE; may be repeated")
	f.alias("e", "env")
	f.BoolVar(&x.tty, "tty", false, "make a terminal for the process")
	f.alias("t", "tty")
	f.StringVar(&x.user, "user", "", "uid[:gid]")
	f.alias("u", "user")
	f.Var(&x.gids, "additional-gids", "further group; may be repeated")
	f.alias("g", "additional-gids")
	f.StringVar(&x.process, "process", "", "file with the process as JSON, instead of a command")
	f.alias("p", "process")
	f.BoolVar(&x.detach, "detach", false, "leave the process running")
	f.alias("d", "detach")
	f.StringVar(&x.label, "process-label", "", "SELinux label")
	f.StringVar(&x.apparmor, "apparmor", "", "AppArmor profile")
	f.BoolVar(&x.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	f.Var(&x.caps, "cap", "further capability; may be repeated")
	f.alias("c", "cap")
	f.Var(&x.cgroups, "cgroup", "run in an existing cgroup below the container's, [CONTROLLER[,CONTROLLER]:]PATH; may be repeated")
	f.BoolVar(&x.ignorePaused, "ignore-paused", false, "exec in a paused container, and wait for resume")
}

// exec runs another program in a running container.
func (a *app) exec(ctx context.Context, args []string) error {
	var x execution
	f := a.flags("exec")
	x.register(f)
	rest, err := a.arguments(f, args, false, 1, -1)
	if err != nil {
		return err
	}
	code, err := a.execute(ctx, x, rest[0], rest[1:])
	if err != nil {
		return coded{fmt.Errorf("exec failed: %w", err), execFailed}
	}
	return exitCode(code)
}

func (a *app) execute(ctx context.Context, x execution, id string, args []string) (int, error) {
	e, err := a.store().open(id)
	if err != nil {
		return 0, err
	}
	status, err := e.status()
	switch {
	case err != nil:
		return 0, err
	case status == specs.StateStopped:
		return 0, errors.New("cannot exec in a stopped container")
	case status == engine.StatusPaused && !x.ignorePaused:
		return 0, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	case status == specs.StateCreating:
		return 0, errors.New("cannot exec in a container that is being created")
	}
	cgroups, err := subCgroups(x.cgroups)
	if err != nil {
		return 0, err
	}
	spec, err := e.spec()
	if err != nil {
		return 0, err
	}
	process, err := x.specify(spec.Process, args)
	if err != nil {
		return 0, err
	}
	addHome(process, e.rec.Engine.Pid)
	at, err := x.attach(process, a.Invocation)
	if err != nil {
		return 0, err
	}
	defer at.close()
	giveAway(e.rec.Engine.Pid, process.User, at.stdio)
	c, err := e.adoptWhole(ctx, spec, false)
	if err != nil {
		return 0, err
	}
	p, err := c.Exec(ctx, engine.ExecOptions{ID: id, Process: process, Stdio: at.stdio, Files: at.files, Cgroups: cgroups, Leave: x.detach})
	if err != nil {
		return 0, err
	}
	return a.finishExec(ctx, x, process, p, at)
}

// subCgroups reads the values of --cgroup: paths by controller, "" for all of them.
func subCgroups(values []string) (map[string]string, error) {
	paths := map[string]string{}
	for _, v := range values {
		controllers, sub, ok := strings.Cut(v, ":")
		if !ok {
			controllers, sub = "", v
		}
		for controller := range strings.SplitSeq(controllers, ",") {
			_, twice := paths[controller]
			if sub == "" || twice || ok && controller == "" {
				return nil, fmt.Errorf("invalid --cgroup %q: want [CONTROLLER[,CONTROLLER]:]PATH, each controller once", v)
			}
			paths[controller] = sub
		}
	}
	return paths, nil
}

// finishExec tells the caller of the process and waits for it, unless it is to be left alone.
func (a *app) finishExec(ctx context.Context, x execution, process *specs.Process, p *engine.Process, at *attachment) (int, error) {
	err := at.hand(p)
	if err == nil {
		err = writePidFile(x.pidFile, p.Pid())
	}
	var fg *foreground
	if err == nil {
		fg, err = a.foreground(x.detach, process, p)
	}
	if err != nil {
		_ = p.Signal(9)
		return 0, err
	}
	if x.detach {
		return 0, nil
	}
	status, err := fg.wait(ctx, p)
	return status.Code, err
}

// specify makes the process of the flags, by the model of the container's own.
func (x *execution) specify(own *specs.Process, args []string) (*specs.Process, error) {
	if x.process != "" {
		return readProcess(x.process)
	}
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	p := *own
	p.Args = args
	p.Terminal = x.tty
	p.ConsoleSize = nil
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.apparmor != "" {
		p.ApparmorProfile = x.apparmor
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	if x.flags.set("no-new-privs") {
		p.NoNewPrivileges = x.noNewPrivs
	}
	p.Capabilities = addCaps(p.Capabilities, x.caps)
	var err error
	if p.Env, err = prepareEnv(append(append([]string(nil), p.Env...), x.env...)); err != nil {
		return nil, err
	}
	if p.User, err = x.userOf(p.User); err != nil {
		return nil, err
	}
	return &p, checkProcess(&p)
}

func readProcess(path string) (*specs.Process, error) {
	b, err := readFile(path, maxConfig)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if p.Env, err = prepareEnv(p.Env); err != nil {
		return nil, err
	}
	return &p, checkProcess(&p)
}

// addCaps adds capabilities to the sets; to the ambient one only if something can be inherited at all.
func addCaps(own *specs.LinuxCapabilities, more []string) *specs.LinuxCapabilities {
	if len(more) == 0 {
		return own
	}
	var c specs.LinuxCapabilities
	if own != nil {
		c = *own
	}
	join := func(set []string) []string { return append(append([]string(nil), set...), more...) }
	c.Bounding, c.Effective, c.Permitted = join(c.Bounding), join(c.Effective), join(c.Permitted)
	if c.Inheritable != nil {
		c.Ambient = join(c.Ambient)
	}
	return &c
}

func (x *execution) userOf(u specs.User) (specs.User, error) {
	parse := func(what, s string) (uint32, error) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return 0, fmt.Errorf("bad %s: %w", what, err)
		}
		return uint32(n), nil
	}
	var err error
	if x.user != "" {
		uid, gid, both := strings.Cut(x.user, ":")
		if u.UID, err = parse("uid", uid); err != nil {
			return u, err
		}
		if both {
			if u.GID, err = parse("gid", gid); err != nil {
				return u, err
			}
		}
	}
	u.AdditionalGids = append([]uint32(nil), u.AdditionalGids...)
	for _, s := range x.gids {
		gid, err := parse("additional gid", s)
		if err != nil {
			return u, err
		}
		u.AdditionalGids = append(u.AdditionalGids, gid)
	}
	return u, nil
}
