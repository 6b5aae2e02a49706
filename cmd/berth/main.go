// Command berth is a Kubernetes node in one binary: it runs pods from manifest files, and is the
// daemon (`berth node`) that keeps them. Each verb has a file of its own here and is thin; what it
// does lives in the packages under internal/.
//
// It promises: an error is one sentence with its remedy on standard error and an exit code that is
// not zero; what is meant for machines has -o json; colour appears on terminals only and never when
// NO_COLOR is set.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// version is set by the linker.
var version = "unknown"

func main() {
	if calledAsRuntime(os.Args[0]) {
		os.Exit(exitCode(ociMain(context.Background(), ociName, os.Args[1:]), os.Stderr))
	}
	c := newCLI(os.Stdin, os.Stdout, os.Stderr)
	os.Exit(c.execute(context.Background(), os.Args[1:]))
}

// execute runs the verb that args name and returns the process's exit code.
func (c *cli) execute(ctx context.Context, args []string) int {
	cmd := c.command()
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return exitCode(err, c.err)
}

// failure is an error for a person: what is wrong, what to do about it, and the exit code.
type failure struct {
	err    error
	remedy string // "" if err says it already
	code   int    // 0 means 1
}

func (f *failure) Unwrap() error { return f.err }

func (f *failure) Error() string {
	if f.remedy == "" {
		return f.err.Error()
	}
	return f.err.Error() + ": " + f.remedy
}

// fail makes a failure from what is wrong and its remedy.
func fail(remedy, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), remedy: remedy}
}

// exited carries a process's exit code to the shell, with nothing left to say.
type exited int

func (e exited) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// exitCode tells w what went wrong, if anything did, and picks the exit code.
func exitCode(err error, w io.Writer) int {
	var code exited
	var f *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintf(w, "berth: %s\n", err)
	if errors.As(err, &f) && f.code != 0 {
		return f.code
	}
	return 1
}
