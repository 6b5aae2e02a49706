package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// ps lists the processes of a container: as numbers, or through the host's ps.
func (a *app) ps(ctx context.Context, args []string) error {
	f := a.flags("ps")
	format := f.String("format", "table", "table or json")
	f.alias("f", "format")
	rest, err := a.arguments(f, args, false, 1, -1)
	if err != nil {
		return err
	}
	e, err := a.store().open(rest[0])
	if err != nil {
		return err
	}
	c, err := e.adopt(ctx)
	if err != nil {
		return err
	}
	pids, err := c.Pids()
	if err != nil {
		return err
	}
	switch *format {
	case "json":
		return json.NewEncoder(a.Out).Encode(append([]int{}, pids...))
	case "table":
		return a.psTable(ctx, pids, rest[1:])
	}
	return errors.New("invalid format option")
}

// psTable prints those lines of ps that are about pids.
func (a *app) psTable(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return errors.New("couldn't find PID field in ps output")
	}
	fmt.Fprintln(a.Out, lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) <= column {
			continue
		}
		pid, err := strconv.Atoi(fields[column])
		if err != nil {
			return fmt.Errorf("unable to parse pid: %w", err)
		}
		if slices.Contains(pids, pid) {
			fmt.Fprintln(a.Out, line)
		}
	}
	return nil
}
