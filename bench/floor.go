package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// floorName is how the table calls what the kernel alone takes.
const floorName = "kernel's floor"

// floor is bench/cfloor: it does what the kernel has to do for a container's process, and nothing else.
type floor struct {
	dir     string
	groups  []string
	helpers map[string]*floorHelper // by network
}

type floorHelper struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

var errNoCompiler = errors.New("needs gcc")

func newFloor(ctx context.Context) (_ *floor, err error) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		return nil, errNoCompiler
	}
	dir, err := os.MkdirTemp("", "bf-")
	if err != nil {
		return nil, err
	}
	f := &floor{dir: dir, helpers: map[string]*floorHelper{}}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	for _, d := range []string{"image/proc", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := buildBlock(ctx, filepath.Join(dir, "image", "block")); err != nil {
		return nil, err
	}
	bin := filepath.Join(dir, "floor")
	if out, err := exec.CommandContext(ctx, cc, "-static", "-O2", "-o", bin, "bench/cfloor/floor.c").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build bench/cfloor: %w\n%s", err, out)
	}
	if err := f.makeGroups(); err != nil {
		return nil, err
	}
	for network, netns := range map[string]string{"host": "0", "bridge": "1"} {
		if f.helpers[network], err = startFloorHelper(bin, append([]string{filepath.Join(dir, "image"), dir, netns}, f.groups...)); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// makeGroups makes a parent for the containers' cgroups in every hierarchy.
func (f *floor) makeGroups() error {
	tops, err := filepath.Glob("/sys/fs/cgroup/*/tasks") // v1; the v2 side of a hybrid limits nothing
	if err != nil {
		return err
	}
	if len(tops) == 0 {
		tops = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, procs := range tops {
		top := filepath.Dir(procs)
		if real, err := filepath.EvalSymlinks(top); err != nil || real != top {
			continue // cpu and cpuacct may be names of one hierarchy
		}
		dir := filepath.Join(top, filepath.Base(f.dir))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		f.groups = append(f.groups, dir)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(filepath.Join(top, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), b, 0); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func startFloorHelper(bin string, args []string) (_ *floorHelper, err error) {
	h := &floorHelper{cmd: exec.Command(bin, args...)}
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	return h, h.cmd.Start()
}

// round is one start. There is no floor for several at once.
func (f *floor) round(network string, n int, s *samples) error {
	h := f.helpers[network]
	if n != 1 || h == nil {
		return nil
	}
	if _, err := io.WriteString(h.in, "\n"); err != nil {
		return err
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", floorName, err)
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return err
	}
	s.add("pod start", time.Duration(ns))
	return nil
}

func (f *floor) stop() {
	for _, h := range f.helpers {
		if h != nil && h.cmd.Process != nil {
			h.in.Close()
			h.cmd.Wait()
		}
	}
	for _, g := range f.groups {
		os.Remove(g)
	}
	os.RemoveAll(f.dir)
}
