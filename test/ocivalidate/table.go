package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

const tableHead = `# Conformance: the OCI runtime

The validation programs of [runtime-tools](https://github.com/opencontainers/runtime-tools) %s against
berth-oci and, on the same machine in the same run, against runc. A cell says how many test points
passed; then how many failed or were skipped, and whether the program gave up. Measured on %s
by ` + "`make conformance-oci`" + `, which writes this page; ` + "`make test`" + ` runs Berth's side and holds it to the column.

Passes with a runc here and not with Berth, point by point: %s.
%s
`

// notes say what a reader would ask.
const notes = `
- Points that fail everywhere ask for what this machine or today's kernel does not have (CAP_SYS_RESOURCE, blkio.leaf_weight,
  the net_cls and hugetlb controllers, limits of kernel memory, AppArmor, SELinux), or fail by themselves: pidfile kills a
  container whose program is about to end (a race, which is not judged), misc_props starts a program that it has not copied, process_rlimits reads a soft limit
  that the Go runtime has raised, delete wants an error for a created container, which runc deletes.
- runc 1.5 gives up on most programs: the seccomp profile that runtime-tools' configuration carries is older than
  statx(2), which runc calls after it has loaded the filter. It is older than close_range(2), too; Berth calls that before.
- linux_ns_itype wants a container without a mount namespace. runc then mounts on the host, and leaves it there; with Berth
  nothing of it is mounted on the host ([how](decisions/0008-no-host-mounts.md)).`

func writeTable(path string, runtimes []runtime, results map[string]map[string]result) error {
	var b strings.Builder
	fmt.Fprintf(&b, tableHead, toolsAt, time.Now().UTC().Format(time.DateOnly), behind(runtimes, results), notes)
	b.WriteString("\n| program |")
	for _, r := range runtimes {
		fmt.Fprintf(&b, " %s |", r.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(runtimes)) + "\n")
	for _, p := range slices.Sorted(maps.Keys(results["Berth"])) {
		fmt.Fprintf(&b, "| `%s` |", p)
		for _, r := range runtimes {
			fmt.Fprintf(&b, " %s |", results[r.name][p])
		}
		b.WriteByte('\n')
	}
	fmt.Print(b.String())
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// behind names the programs that compare fails for.
func behind(runtimes []runtime, results map[string]map[string]result) string {
	var list []string
	for _, r := range runtimes[1:] {
		for p, peer := range results[r.name] {
			if len(results["Berth"][p].lacks(peer)) > 0 && !races[p] && !slices.Contains(list, "`"+p+"`") {
				list = append(list, "`"+p+"`")
			}
		}
	}
	if list == nil {
		return "nothing"
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// compare fails for each point that passes with a peer and not with Berth.
func compare(runtimes []runtime, results map[string]map[string]result) error {
	var errs []error
	for _, r := range runtimes[1:] {
		for _, p := range slices.Sorted(maps.Keys(results[r.name])) {
			berth := results["Berth"][p]
			if lacks := berth.lacks(results[r.name][p]); len(lacks) > 0 && !races[p] {
				errs = append(errs, fmt.Errorf("%s: %d points pass with %s and not with Berth: %s\n%s",
					p, len(lacks), r.name, strings.Join(lacks[:min(len(lacks), 9)], "; "), berth.errors))
			}
		}
	}
	return errors.Join(errs...)
}

// checkTable holds Berth to its column of the table.
func checkTable(path string, got map[string]result) error {
	kept, err := readTable(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(got)) {
		want, ok := kept[p]
		if !ok {
			errs = append(errs, fmt.Errorf("%s: not in %s: run make conformance-oci", p, path))
			continue
		}
		r := got[p]
		if races[p] {
			continue
		}
		if len(r.passed) < want.passed || len(r.failed) > want.failed || (r.broken && !want.broken) {
			errs = append(errs, fmt.Errorf("%s: %s; %s has %s\n%s\n%s", p, r, path, want.cell, strings.Join(r.failed, "\n"), r.errors))
		}
	}
	if len(errs) == 0 {
		fmt.Printf("%d programs as in %s, or better\n", len(got), path)
	}
	return errors.Join(errs...)
}

// row is Berth's cell of a program.
type row struct {
	cell           string
	passed, failed int
	broken         bool
}

func readTable(path string) (map[string]row, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rows := map[string]row{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		r := row{cell: strings.TrimSpace(cells[2])}
		for n, part := range strings.Split(r.cell, ", ") {
			var count int
			fmt.Sscan(part, &count)
			switch {
			case n == 0:
				r.passed = count
			case strings.HasSuffix(part, " failed"):
				r.failed = count
			case part == "gave up":
				r.broken = true
			}
		}
		rows[strings.Trim(cells[1], " `")] = r
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s has no table", path)
	}
	return rows, nil
}
