package criu

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/11f9778f/berth/internal/sys"
)

// ErrUnsupported is wrapped by errors that say that a container can't be dumped because of what it shares.
var ErrUnsupported = errors.New("such a container can't be checkpointed")

// maxProcFile bounds a file of /proc that is read whole, in bytes.
const maxProcFile = 64 << 20

// mount is a line of mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id           int
	root, target string
	fstype       string
	options      string // the superblock's
	limits       uint64 // MS_RDONLY, MS_NOSUID, MS_NODEV and MS_NOEXEC, of the mount or, the first, of its superblock
}

// limits are the options that forbid something.
var limits = map[string]uint64{"ro": syscall.MS_RDONLY, "nosuid": syscall.MS_NOSUID, "nodev": syscall.MS_NODEV, "noexec": syscall.MS_NOEXEC}

// externals are the resources that CRIU shall not look into.
func (d Dump) externals() ([]string, error) {
	if err := d.ownsPids(); err != nil {
		return nil, err
	}
	theirs, err := readMounts(fmt.Sprintf("/proc/%d/mountinfo", d.Pid))
	if err != nil {
		return nil, err
	}
	ours, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	ext := externalMounts(theirs, d.Binds)
	files, err := d.externalFiles(theirs, ours)
	if err != nil {
		return nil, err
	}
	ext = append(ext, files...)
	if err := d.describe(files); err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", d.Pid), &st); err != nil {
		return nil, err
	}
	return append(ext, fmt.Sprintf("net[%d]:net", st.Ino)), nil
}

// ownsPids refuses a process that is not the first of its PID namespace: CRIU can only write a namespace as a whole,
// or processes of its own.
func (d Dump) ownsPids() error {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", d.Pid))
	if err != nil {
		return err
	}
	ours, err := os.Readlink("/proc/self/ns/pid")
	if err != nil || theirs == ours {
		return err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if pids, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if f := strings.Fields(pids); len(f) > 0 && f[len(f)-1] != "1" {
				return fmt.Errorf("it shares the PID namespace of its pod or of another container: %w", ErrUnsupported)
			}
		}
	}
	return nil
}

// isExternal tells whether somebody else fills a mount: see externalMounts.
func (m mount) isExternal(binds []string) bool {
	switch m.fstype {
	case "proc", "sysfs", "mqueue":
		return false
	case "devpts", "tmpfs":
		return m.root != "/" || slices.Contains(binds, m.target)
	}
	return true
}

// externalMounts are those that somebody else fills: bind mounts, cgroups, devices of the host. What CRIU makes anew
// by itself (proc, sysfs, devpts, mqueue, a tmpfs of the container's own) is none.
func externalMounts(mounts []mount, binds []string) []string {
	var ext []string
	for _, m := range mounts {
		if m.target != "/" && m.isExternal(binds) {
			ext = append(ext, fmt.Sprintf("mnt[%s]:%s", m.target, m.target))
		}
	}
	return ext
}

// Descriptors is the file among the images that tells which of the files that somebody else owns are the container's
// standard input and output: keys of CRIU's, with 0, 1 or 2, or -1 for /dev/null.
const Descriptors = "stdio.json"

// streams are the files at the paths, by their inode.
func (d Dump) streams() map[uint64]int {
	out := map[uint64]int{}
	for i, name := range append([]string{os.DevNull}, d.Stdio[:]...) {
		var st syscall.Stat_t
		if name != "" && syscall.Stat(name, &st) == nil {
			out[st.Ino] = i - 1
		}
	}
	return out
}

// describe writes Descriptors.
func (d Dump) describe(ext []string) error {
	streams, out := d.streams(), map[string]int{}
	for _, key := range ext {
		var id int
		var ino uint64
		if n, _ := fmt.Sscanf(key, "file[%x:%x]", &id, &ino); n != 2 {
			continue
		}
		if i, ok := streams[ino]; ok {
			out[key] = i
		}
	}
	for i := range 3 { // pipes without a name, of a process that has them still
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", d.Pid, i)); err == nil && strings.HasPrefix(link, "pipe:[") {
			out[link] = i
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.Dir, Descriptors), b, 0o600)
}

// externalFiles are open files on mounts that are not the container's but ours: its FIFOs and /dev/null as standard
// input and output.
func (d Dump) externalFiles(theirs, ours []mount) ([]string, error) {
	foreign := map[int]bool{}
	for _, m := range ours {
		foreign[m.id] = true
	}
	for _, m := range theirs {
		delete(foreign, m.id)
	}
	var ext []string
	for _, pid := range d.Pids {
		dir := fmt.Sprintf("/proc/%d", pid)
		fds, err := os.ReadDir(dir + "/fd")
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			e, err := externalFile(dir, fd.Name(), foreign)
			if err != nil && !gone(err) {
				return nil, err
			}
			if e != "" && !slices.Contains(ext, e) {
				ext = append(ext, e)
			}
		}
	}
	return ext, nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) }

func externalFile(proc, fd string, foreign map[int]bool) (string, error) {
	info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		v, ok := strings.CutPrefix(line, "mnt_id:")
		if !ok {
			continue
		}
		id, err := strconv.Atoi(strings.TrimSpace(v))
		if err != nil || !foreign[id] {
			return "", err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(proc, "fd", fd), &st); err != nil {
			return "", err
		}
		return fmt.Sprintf("file[%x:%x]", id, st.Ino), nil
	}
	return "", nil
}

func readMounts(path string) ([]mount, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) > maxProcFile {
		return nil, fmt.Errorf("%s has %d bytes", path, len(b))
	}
	return parseMounts(string(b))
}

// parseMounts reads mountinfo.
func parseMounts(text string) ([]mount, error) {
	var out []mount
	for line := range strings.Lines(text) {
		front, back, ok := strings.Cut(strings.TrimRight(line, "\n"), " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if !ok || len(f) < 6 || len(b) < 2 {
			return nil, fmt.Errorf("mountinfo: line %q is not understood", line)
		}
		id, err := strconv.Atoi(f[0])
		if err != nil {
			return nil, fmt.Errorf("mountinfo: line %q: %w", line, err)
		}
		m := mount{id: id, root: sys.MountPath(f[3]), target: sys.MountPath(f[4]), fstype: b[0]}
		if len(b) > 2 {
			m.options = b[2]
		}
		for o := range strings.SplitSeq(f[5], ",") {
			m.limits |= limits[o]
		}
		if slices.Contains(strings.Split(m.options, ","), "ro") {
			m.limits |= syscall.MS_RDONLY
		}
		out = append(out, m)
	}
	return out, nil
}

// freezer is the folder of the cgroup that freezes a process: of the v1 controller, or of v2.
func freezer(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	if dir := freezerDir(string(b), mounts); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("process %d: no freezer is mounted: %w", pid, ErrUnsupported)
}

func freezerDir(cgroup string, mounts []mount) string {
	v2 := ""
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, m := range mounts {
			rel, err := filepath.Rel(m.root, f[2])
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			switch {
			case m.fstype == "cgroup" && slices.Contains(strings.Split(f[1], ","), "freezer") && slices.Contains(strings.Split(m.options, ","), "freezer"):
				return filepath.Join(m.target, rel)
			case m.fstype == "cgroup2" && f[0] == "0" && v2 == "":
				v2 = filepath.Join(m.target, rel)
			}
		}
	}
	return v2
}
