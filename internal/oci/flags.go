package oci

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// flagSet is the flag package with runc's manners: flags may stand behind arguments (but for commands that
// take another program's), and help is an exit code of 0.
type flagSet struct {
	*flag.FlagSet
	command string
}

func (a *app) flags(command string) *flagSet {
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	return &flagSet{f, command}
}

// alias gives the flag name a further, short one.
func (f *flagSet) alias(short, name string) { f.Var(f.Lookup(name).Value, short, "") }

// set tells whether the flag was given.
func (f *flagSet) set(name string) (given bool) {
	f.Visit(func(g *flag.Flag) { given = given || g.Name == name })
	return given
}

// parse reads flags and returns the arguments. With anywhere, flags may come behind arguments too.
func (f *flagSet) parse(args []string, anywhere bool) (rest []string, err error) {
	for {
		if err := f.Parse(args); err != nil {
			return nil, err
		}
		left := f.Args()
		if !anywhere || len(left) == 0 {
			return append(rest, left...), nil
		}
		if used := len(args) - len(left); used > 0 && args[used-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// usage answers a bad flag, or prints the help that was asked for.
func (a *app) usage(f *flagSet, err error) error {
	if errors.Is(err, flag.ErrHelp) {
		if f.command == "" {
			a.help(a.Out)
		} else {
			a.commandHelp(a.Out, f)
		}
		return nil
	}
	return err
}

func (a *app) commandHelp(w io.Writer, f *flagSet) {
	for _, c := range commands() {
		if c.name == f.command {
			fmt.Fprintf(w, "NAME:\n   %s %s - %s\n\nUSAGE:\n   %s %s [options] %s\n\nOPTIONS:\n", a.Name, c.name, c.about, a.Name, c.name, c.args)
		}
	}
	f.VisitAll(func(g *flag.Flag) {
		if g.Usage != "" {
			fmt.Fprintf(w, "   --%-20s %s\n", g.Name, g.Usage)
		}
	})
}

// errHelp ends a command that has printed its help.
const errHelp = exitCode(0)

// arguments reads a command's flags and checks how many arguments follow; most < 0 means any number.
func (a *app) arguments(f *flagSet, args []string, anywhere bool, least, most int) ([]string, error) {
	rest, err := f.parse(args, anywhere)
	if errors.Is(err, flag.ErrHelp) {
		a.commandHelp(a.Out, f)
		return nil, errHelp
	}
	if err != nil {
		return nil, err
	}
	switch {
	case least == most && len(rest) != least:
		err = fmt.Errorf("%s: %q requires exactly %d argument(s)", a.Name, f.command, least)
	case len(rest) < least:
		err = fmt.Errorf("%s: %q requires a minimum of %d argument(s)", a.Name, f.command, least)
	case most >= 0 && len(rest) > most:
		err = fmt.Errorf("%s: %q requires a maximum of %d argument(s)", a.Name, f.command, most)
	default:
		return rest, nil
	}
	fmt.Fprint(a.Out, "Incorrect Usage.\n\n")
	a.commandHelp(a.Out, f)
	return nil, err
}

// one reads a command that takes a container's id and nothing else.
func (a *app) one(f *flagSet, args []string) (string, error) {
	rest, err := a.arguments(f, args, true, 1, 1)
	if err != nil {
		return "", err
	}
	return rest[0], nil
}
