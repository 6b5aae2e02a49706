package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/systemd"
)

// Invocation is one call of the program.
type Invocation struct {
	// Name is what the program calls itself in messages: "berth-oci", "berth oci".
	Name    string
	Version string
	Args    []string // without the program's name
	In      *os.File
	Out     *os.File
	Err     *os.File
}

// DefaultRoot is the state directory without --root.
const DefaultRoot = "/run/berth-oci"

// globals are the flags before the command.
type globals struct {
	root, logFile, logFormat, criu, rootless string
	debug, systemdCgroup, version            bool
}

// app is an invocation with its flags read.
type app struct {
	Invocation
	globals
	log     *slog.Logger
	toFile  bool // the log is not standard error
	rootSet bool // --root was given
}

// exitCode is an error that says nothing and sets the exit code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// coded is an error with an exit code other than 1.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// Main runs the command that the arguments name and returns the program's exit code.
func Main(ctx context.Context, inv Invocation) int {
	a := &app{Invocation: inv}
	err := a.run(ctx)
	var exit exitCode
	var c coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	}
	a.fail(err)
	if errors.As(err, &c) {
		return c.code
	}
	return 1
}

func (a *app) run(ctx context.Context) error {
	f := a.flags("")
	f.StringVar(&a.root, "root", DefaultRoot, "directory of the containers' state (on a tmpfs)")
	f.StringVar(&a.logFile, "log", "", "file for log lines (default: standard error)")
	f.StringVar(&a.logFormat, "log-format", "text", "form of log lines: text or json")
	f.BoolVar(&a.debug, "debug", false, "log more")
	f.BoolVar(&a.systemdCgroup, "systemd-cgroup", false, "make cgroups through systemd; cgroupsPath is slice:prefix:name")
	f.StringVar(&a.rootless, "rootless", "auto", "true, false or auto: whether cgroups that may not be made are no error")
	f.StringVar(&a.criu, "criu", "criu", "the program that makes and restores checkpoints, version 4 or newer")
	f.BoolVar(&a.version, "version", false, "print the version")
	f.alias("v", "version")
	rest, err := f.parse(a.Args, false)
	if err != nil {
		return a.usage(f, err)
	}
	if a.version {
		a.printVersion()
		return nil
	}
	if len(rest) == 0 || rest[0] == "help" || rest[0] == "h" {
		a.help(a.Out)
		return nil
	}
	if err := a.settle(f.set("root")); err != nil {
		return err
	}
	for _, c := range commands() {
		if c.name == rest[0] {
			return c.run(a, ctx, rest[1:])
		}
	}
	return fmt.Errorf("no such command %q: see %s --help", rest[0], a.Name)
}

// settle opens the log and makes the root absolute.
func (a *app) settle(rootSet bool) error {
	a.rootSet = rootSet
	if err := a.openLog(); err != nil {
		return err
	}
	root, err := filepath.Abs(a.root)
	if err != nil {
		return fmt.Errorf("find root directory %s: %w", a.root, err)
	}
	if root == "/" {
		return errors.New("option --root must not be /")
	}
	a.root = root
	return nil
}

// store is where the containers' state is.
func (a *app) store() store {
	return store{root: a.root, log: a.log, scopes: &systemd.Lazy{}}
}

type command struct {
	name, about, args string
	run               func(a *app, ctx context.Context, args []string) error
}

// commands are in the order of the help text.
func commands() []command {
	return []command{
		{"create", "make a container from a bundle; its program waits for start", "<container-id>", (*app).create},
		{"start", "run the program of a created container", "<container-id>", (*app).start},
		{"run", "create and start a container", "<container-id>", (*app).runContainer},
		{"exec", "run another program in a running container", "<container-id> <command> [argument...]", (*app).exec},
		{"kill", "send a signal (default: SIGTERM) to the container's first process", "<container-id> [signal]", (*app).kill},
		{"delete", "remove what a stopped container holds", "<container-id>", (*app).delete},
		{"state", "print the state of a container", "<container-id>", (*app).state},
		{"list", "list the containers of this root", "", (*app).list},
		{"ps", "list the processes of a container", "<container-id> [ps option...]", (*app).ps},
		{"pause", "stop all processes of a container", "<container-id>", (*app).pause},
		{"resume", "let a paused container run again", "<container-id>", (*app).resume},
		{"update", "change the limits of a container", "<container-id>", (*app).update},
		{"events", "print statistics and out-of-memory events", "<container-id>", (*app).events},
		{"spec", "write a config.json to begin with", "", (*app).spec},
		{"features", "print what this runtime can do", "", (*app).features},
		{"checkpoint", "write what a running container is into a directory, by CRIU", "<container-id>", (*app).checkpoint},
		{"restore", "make a container of a bundle and a checkpoint", "<container-id>", (*app).restore},
	}
}

func (a *app) printVersion() {
	fmt.Fprintf(a.Out, "%s version %s\nspec: %s\ngo: %s\n", a.Name, a.Version, specs.Version, runtime.Version())
}

func (a *app) help(w io.Writer) {
	var b strings.Builder
	fmt.Fprintf(&b, "NAME:\n   %s - runs containers from OCI bundles; the command line is runc's\n\n", a.Name)
	fmt.Fprintf(&b, "USAGE:\n   %s [global options] command [options] [arguments...]\n\nCOMMANDS:\n", a.Name)
	for _, c := range commands() {
		fmt.Fprintf(&b, "   %-11s %s\n", c.name, c.about)
	}
	b.WriteString("\nGLOBAL OPTIONS:\n   --root DIR, --log FILE, --log-format text|json, --debug, --systemd-cgroup, --rootless true|false|auto, --version\n")
	fmt.Fprintf(&b, "\n%s COMMAND --help tells the options of a command.\n", a.Name)
	io.WriteString(w, b.String())
}
