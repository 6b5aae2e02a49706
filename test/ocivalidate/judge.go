package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// deadline bounds a program; the longest of them takes a quarter of a minute.
const deadline = 3 * time.Minute

func rootfs() string { return "rootfs-" + goruntime.GOARCH + ".tar.gz" }

// judge runs the programs against a runtime: those that use one and the same cgroup one after the other,
// the others side by side, for they mostly sleep.
func (b builder) judge(ctx context.Context, r runtime, programs []string, only string) (map[string]result, error) {
	fmt.Printf("%s: %d programs\n", r.name, len(programs))
	dir, err := os.MkdirTemp("", "ocivalidate")
	if err != nil {
		return nil, err
	}
	before := cgroups()
	j := &judge{dir: dir, programs: b.programDir(), results: map[string]result{}}
	if err := j.wrap(r.path); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(7)
	var oneByOne []string
	for _, p := range programs {
		if !strings.Contains(p, only) {
			continue
		}
		if strings.Contains(p, "cgroups") || strings.Contains(p, "resources") {
			oneByOne = append(oneByOne, p)
		}
	}
	g.Go(func() error {
		for _, p := range oneByOne {
			j.run(ctx, p)
		}
		return ctx.Err()
	})
	for _, p := range programs {
		if strings.Contains(p, only) && !slices.Contains(oneByOne, p) {
			g.Go(func() error { j.run(ctx, p); return ctx.Err() })
		}
	}
	err = g.Wait()
	return j.results, errors.Join(err, j.clean(r.name, before))
}

// judge is a run of all programs against one runtime.
type judge struct {
	dir, programs string
	mu            sync.Mutex
	results       map[string]result
}

func (j *judge) runtime() string { return filepath.Join(j.dir, "runtime") }

// wrap makes the runtime a program that needs no flags, with a state directory of its own.
func (j *judge) wrap(path string) error {
	script := fmt.Sprintf("#!/bin/sh\nexec '%s' --root '%s/state' \"$@\"\n", path, j.dir)
	if err := os.MkdirAll(filepath.Join(j.dir, "tmp"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(j.runtime(), []byte(script), 0o755)
}

func (j *judge) run(ctx context.Context, program string) {
	r := j.once(ctx, program)
	for i := 0; i < 4 && len(r.failed) > 0 && slices.Contains(racing, program); i++ {
		r = j.once(ctx, program)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.results[program] = r
}

func (j *judge) once(ctx context.Context, program string) result {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(j.programs, program))
	cmd.Dir = j.programs
	cmd.Env = append(os.Environ(), "RUNTIME="+j.runtime(), "TMPDIR="+filepath.Join(j.dir, "tmp"))
	cmd.WaitDelay = time.Second // a container may hold the pipes
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	r := result{}
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		r.broken = true
	}
	r.output, r.errors = out.String(), errs.String()
	r.parse()
	return r
}

// racing are programs that race with their own container: killsig sends its signals as soon as the container runs, and
// the shell in it may not have set its traps by then.
var racing = []string{"killsig"}

// clean deletes the containers that programs have left, and tells what else is there that was not before.
func (j *judge) clean(name string, before map[string]bool) error {
	out, _ := exec.Command(j.runtime(), "list", "-q").Output()
	var errs []error
	for _, id := range strings.Fields(string(out)) {
		if out, err := exec.Command(j.runtime(), "delete", "--force", id).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w: %s", id, err, out))
		}
	}
	for _, m := range mountsBelow(j.dir) {
		fmt.Println(name, "has left the mount", m)
		if out, err := exec.Command("umount", "-R", m).CombinedOutput(); err != nil && len(mountsBelow(m)) > 0 {
			errs = append(errs, fmt.Errorf("umount %s: %w: %s", m, err, out))
		}
		if name == "Berth" {
			errs = append(errs, fmt.Errorf("the mount %s was left", m))
		}
	}
	for dir := range cgroups() {
		if !before[dir] {
			removeCgroup(dir)
		}
	}
	if len(mountsBelow(j.dir)) == 0 {
		errs = append(errs, os.RemoveAll(j.dir))
	}
	return errors.Join(errs...)
}

// mountsBelow lists what is mounted in dir, without what is mounted in that again.
func mountsBelow(dir string) []string {
	info, _ := os.ReadFile("/proc/self/mountinfo")
	var list []string
	for line := range strings.Lines(string(info)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[4], dir+"/") {
			continue
		}
		if !slices.ContainsFunc(list, func(m string) bool { return f[4] == m || strings.HasPrefix(f[4], m+"/") }) {
			list = append(list, f[4])
		}
	}
	return list
}

// cgroups are the groups at the top of all hierarchies. Runtimes do not remove the parents of the paths that
// the programs ask for.
func cgroups() map[string]bool {
	dirs := map[string]bool{}
	for _, pattern := range []string{"/sys/fs/cgroup/*/cgrouptest", "/sys/fs/cgroup/*/testdir", "/sys/fs/cgroup/cgrouptest", "/sys/fs/cgroup/testdir"} {
		found, _ := filepath.Glob(pattern)
		for _, dir := range found {
			dirs[dir] = true
		}
	}
	return dirs
}

func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir) // a busy one stays
}
