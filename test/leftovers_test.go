package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"

	"github.com/11f9778f/berth/internal/node"
)

// leftovers lists everything on the machine that belongs to this node and to nobody else: by its
// folder, and by the names that follow from it. After the last pod there must be none, but for the
// images, the node's log and empty folders below the root directory.
func (m *machine) leftovers() []string {
	names := node.NamesFor(m.run)
	var left []string
	left = append(left, m.mounts()...)
	left = append(left, links(names)...)
	left = append(left, tables(names.Table)...)
	for _, dir := range cgroups(names.CgroupParent) {
		left = append(left, "cgroup "+dir)
	}
	for pid, what := range m.processes(names.CgroupParent) {
		left = append(left, fmt.Sprintf("process %d: %s", pid, what))
	}
	return append(left, m.files()...)
}

// mounts are those in or from the node's folder.
func (m *machine) mounts() []string {
	var left []string
	eachLine("/proc/self/mountinfo", func(line string) {
		f := strings.Fields(line)
		if len(f) > 4 && f[4] != m.root && strings.Contains(line, m.dir+"/") {
			left = append(left, "mount "+line)
		}
	})
	return left
}

func links(names node.Names) []string {
	var left []string
	all, err := net.Interfaces()
	if err != nil {
		return []string{err.Error()}
	}
	for _, l := range all {
		if l.Name == names.Bridge || strings.HasPrefix(l.Name, names.LinkPrefix) {
			left = append(left, "link "+l.Name)
		}
	}
	return left
}

func tables(name string) []string {
	c, err := nftables.New()
	if err != nil {
		return []string{"nftables: " + err.Error()}
	}
	all, err := c.ListTables()
	if err != nil {
		return nil // a kernel without nftables has no table of ours
	}
	var left []string
	for _, t := range all {
		if t.Name == name {
			left = append(left, "nftables table "+name)
		}
	}
	return left
}

// cgroups are the node's cgroup and all below it, in every hierarchy.
func cgroups(parent string) []string {
	var found []string
	tops, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, top := range append(tops, "/sys/fs/cgroup") {
		filepath.WalkDir(filepath.Join(top, parent), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// processes are those in the node's cgroup, and Berth's own that work in its folder.
func (m *machine) processes(cgroupParent string) map[int]string {
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if len(cmdline) == 0 {
			continue // a kernel thread, or a process that has ended
		}
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		inside := bytes.Contains(cgroup, []byte(":"+cgroupParent+"/")) || bytes.Contains(cgroup, []byte(":"+cgroupParent+"\n"))
		ours := bytes.Contains(cmdline, []byte("berth")) && (bytes.Contains(cmdline, []byte(m.dir)) || bytes.Contains(environ, []byte(m.run)))
		if inside || ours {
			found[pid] = string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// files are those below the run directory, and below the root directory but the store's and the logs
// of the node itself.
func (m *machine) files() []string {
	var left []string
	filepath.WalkDir(m.run, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			left = append(left, "file "+path)
		}
		return nil
	})
	keep := map[string]bool{"node.log": true, "images": true}
	filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if rel, _ := filepath.Rel(m.root, path); keep[rel] && d.IsDir() {
			return fs.SkipDir
		} else if !d.IsDir() && !keep[rel] {
			left = append(left, "file "+path)
		}
		return nil
	})
	return left
}

// sweep removes by force what a failed test left, so that the next one is not disturbed.
func (m *machine) sweep() {
	names := node.NamesFor(m.run)
	for range 20 {
		for pid := range m.processes(names.CgroupParent) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(m.processes(names.CgroupParent)) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	var points []string
	eachLine("/proc/self/mountinfo", func(line string) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], m.dir+"/") {
			points = append(points, f[4])
		}
	})
	for i := len(points) - 1; i >= 0; i-- {
		syscall.Unmount(points[i], syscall.MNT_DETACH)
	}
	all := cgroups(names.CgroupParent)
	for i := len(all) - 1; i >= 0; i-- {
		syscall.Rmdir(all[i])
	}
	removeLinks(names)
	if c, err := nftables.New(); err == nil {
		if all, err := c.ListTables(); err == nil {
			for _, t := range all {
				if t.Name == names.Table {
					c.DelTable(t)
				}
			}
			c.Flush()
		}
	}
}

func eachLine(path string, f func(string)) {
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f(s.Text())
	}
}
