package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemon is a runtime's process, that of this program's own and no other.
type daemon interface {
	pid() int
	// folder is where all that it makes lives.
	folder() string
	// halt ends it, and its pods run on; begin starts it again.
	halt() error
	begin() error
}

// removeGroups removes the empty cgroups of pods below a parent of the benchmark's own, and the parent.
func removeGroups(parent string) {
	for _, deep := range []string{"/*/*", "/*", ""} {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + parent + deep)
		more, _ := filepath.Glob("/sys/fs/cgroup" + parent + deep)
		for _, dir := range append(dirs, more...) {
			syscall.Rmdir(dir) // files, and what is not empty, stay
		}
	}
}

// usage is a process's memory, in MiB.
type usage struct{ rss, pss, private float64 }

func (u usage) plus(v usage) usage { return usage{u.rss + v.rss, u.pss + v.pss, u.private + v.private} }

func weighProcess(pid int) (usage, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, err
	}
	fields := map[string]float64{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			fields[f[0]] += kib / 1024
		}
	}
	return usage{fields["Rss:"], fields["Pss:"], fields["Private_Clean:"] + fields["Private_Dirty:"]}, nil
}

// shimsOf finds the shims of the daemon whose folder it is: programs that are called so, and that name the folder in their
// arguments or write their log there.
func shimsOf(folder string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name, _, _ := bytes.Cut(args, []byte{0})
		if !strings.HasPrefix(filepath.Base(string(name)), "containerd-shim-") {
			continue
		}
		log, _ := os.Readlink(filepath.Join(dir, "fd", "2"))
		if bytes.Contains(args, []byte(folder+"/")) || strings.HasPrefix(log, folder+"/") {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every architecture that Go knows.
const tick = 10 * time.Millisecond

// processorTime is what the processes have used so far.
func processorTime(pids []int) time.Duration {
	var ticks int
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			ticks += user + system
		}
	}
	return time.Duration(ticks) * tick
}
