package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// rdt is a container's place in the resctrl filesystem, by which Intel's and AMD's processors share out cache and memory
// bandwidth (runtime-spec config-linux.md, IntelRdt).
type rdt struct {
	root string // where resctrl is mounted
	id   string // the container's
	spec *specs.LinuxIntelRdt
	mine bool // what is called after the container was made for it
}

// newRDT finds the filesystem in the mount table. nil spec: nil.
func newRDT(id string, spec *specs.LinuxIntelRdt) (*rdt, error) {
	if spec == nil {
		return nil, nil
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "resctrl" {
			return &rdt{root: f[1], id: id, spec: spec}, nil
		}
	}
	return nil, errors.New("linux.intelRdt: no resctrl filesystem is mounted (does this processor have RDT?)")
}

func validateRDT(spec *specs.LinuxIntelRdt) error {
	if spec == nil {
		return nil
	}
	if id := spec.ClosID; id != "/" && (id == "." || id == ".." || strings.ContainsAny(id, "/\x00\n")) {
		return fmt.Errorf("linux.intelRdt.closID: bad name %q", id)
	}
	for _, s := range append([]string{spec.L3CacheSchema, spec.MemBwSchema}, spec.Schemata...) {
		if strings.ContainsAny(s, "\n\x00") {
			return fmt.Errorf("linux.intelRdt: the schema %q holds a line break", s)
		}
	}
	if spec.MemBwSchema != "" && !strings.HasPrefix(spec.MemBwSchema, "MB:") {
		return fmt.Errorf("linux.intelRdt.memBwSchema: %q has another beginning than \"MB:\", which it must have", spec.MemBwSchema)
	}
	return nil
}

// group is the directory of the container's class of service.
func (r *rdt) group() string {
	switch r.spec.ClosID {
	case "":
		return filepath.Join(r.root, r.id)
	case "/":
		return r.root
	}
	return filepath.Join(r.root, r.spec.ClosID)
}

func (r *rdt) monitor() string { return filepath.Join(r.group(), "mon_groups", r.id) }

// schemata are the lines to be written, in the order that the spec demands.
func (r *rdt) schemata() []string {
	var lines []string
	for _, s := range append([]string{r.spec.L3CacheSchema, r.spec.MemBwSchema}, r.spec.Schemata...) {
		if s != "" {
			lines = append(lines, s)
		}
	}
	return lines
}

// assign makes the class of service, or checks the one that is there, and puts process pid in.
func (r *rdt) assign(pid int) error {
	if r == nil {
		return nil
	}
	lines := r.schemata()
	err := os.Mkdir(r.group(), 0o755)
	switch {
	case err == nil && r.spec.ClosID != "" && len(lines) == 0:
		os.Remove(r.group())
		return fmt.Errorf("linux.intelRdt.closID: %s does not exist, and there is no schema to make it with", r.spec.ClosID)
	case err == nil:
		if err := r.write(lines); err != nil {
			os.Remove(r.group())
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return fmt.Errorf("linux.intelRdt: %w", err)
	case r.spec.ClosID == "":
		return fmt.Errorf("linux.intelRdt: %s exists, and is not this container's", r.group())
	default:
		if err := r.compare(lines); err != nil {
			return err
		}
	}
	r.mine = true
	tasks := filepath.Join(r.group(), "tasks")
	if r.spec.EnableMonitoring {
		if err := os.Mkdir(r.monitor(), 0o755); err != nil {
			return errors.Join(fmt.Errorf("linux.intelRdt.enableMonitoring: %w", err), r.remove())
		}
		if err := os.WriteFile(tasks, []byte(strconv.Itoa(pid)), 0); err != nil {
			return errors.Join(fmt.Errorf("linux.intelRdt: %w", err), r.remove())
		}
		tasks = filepath.Join(r.monitor(), "tasks")
	}
	if err := os.WriteFile(tasks, []byte(strconv.Itoa(pid)), 0); err != nil {
		return errors.Join(fmt.Errorf("linux.intelRdt: %w", err), r.remove())
	}
	return nil
}

func (r *rdt) write(lines []string) error {
	for _, l := range lines {
		if err := os.WriteFile(filepath.Join(r.group(), "schemata"), []byte(l+"\n"), 0); err != nil {
			return fmt.Errorf("linux.intelRdt: schema %q: %w", l, err)
		}
	}
	return nil
}

// compare demands that a class of service which is there already has these schemata.
func (r *rdt) compare(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(r.group(), "schemata"))
	if err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	have := strings.Fields(string(b))
	for _, l := range lines {
		if !slices.Contains(have, strings.ReplaceAll(l, " ", "")) {
			return fmt.Errorf("linux.intelRdt.closID: %s has not the schema %q", r.spec.ClosID, l)
		}
	}
	return nil
}

// remove takes away what assign has made: the monitoring group, and the class of service that is called after the container.
func (r *rdt) remove() error {
	if r == nil || !r.mine {
		return nil
	}
	var errs []error
	if r.spec.EnableMonitoring {
		errs = append(errs, os.Remove(r.monitor()))
	}
	if r.spec.ClosID == "" {
		errs = append(errs, os.Remove(r.group()))
	}
	for n, err := range errs {
		if errors.Is(err, fs.ErrNotExist) {
			errs[n] = nil
		}
	}
	return errors.Join(errs...)
}
