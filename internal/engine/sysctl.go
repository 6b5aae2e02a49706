package engine

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// sysctlNamespace tells which namespace a kernel parameter belongs to; ok is false for one that would
// change the host.
func sysctlNamespace(key string) (t specs.LinuxNamespaceType, ok bool) {
	file := sysctlFile(key)
	if path.Clean(file) != file || strings.HasPrefix(file, "/") || strings.HasPrefix(file, "..") || strings.ContainsRune(file, 0) {
		return "", false
	}
	switch file {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return specs.IPCNamespace, true
	case "kernel/domainname":
		return specs.UTSNamespace, true
	}
	switch {
	case strings.HasPrefix(file, "net/"):
		return specs.NetworkNamespace, true
	case strings.HasPrefix(file, "fs/mqueue/"):
		return specs.IPCNamespace, true
	}
	return "", false
}

// checkSysctl refuses parameters that do not belong to a namespace of the container's own.
func checkSysctl(spec *specs.Spec, key, value string) error {
	t, ok := sysctlNamespace(key)
	if !ok {
		return fmt.Errorf("linux.sysctl: %q belongs to no namespace: setting it would change the host", key)
	}
	if strings.ContainsAny(value, "\n\x00") {
		return fmt.Errorf("linux.sysctl: %q: bad value", key)
	}
	if _, ok := namespace(spec, t); !ok {
		return fmt.Errorf("linux.sysctl: %q needs a %s namespace, and the container shares the host's", key, t)
	}
	return nil
}

// notHosts refuses parameters of a namespace that is joined by path and is this process's own.
func notHosts(spec *specs.Spec) error {
	for key := range spec.Linux.Sysctl {
		t, _ := sysctlNamespace(key)
		ns, _ := namespace(spec, t)
		if ns.Path == "" {
			continue
		}
		theirs, err := os.Stat(ns.Path)
		if err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", t, err)
		}
		ours, err := os.Stat("/proc/self/ns/" + procName[t])
		if err != nil {
			return err
		}
		if os.SameFile(theirs, ours) {
			return fmt.Errorf("linux.sysctl: %q would change the host: %s is its own namespace", key, ns.Path)
		}
	}
	return nil
}

// procName is a namespace's name in /proc/PID/ns.
var procName = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc",
	specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup", specs.UserNamespace: "user", specs.TimeNamespace: "time",
}

// hostProc is a procfs of this process's pid namespace that is attached nowhere: no mount, of a container or of
// the host, can redirect what is opened below it. It shows everybody his own kernel parameters and attributes.
var hostProc = sync.OnceValues(func() (*os.File, error) {
	f, err := newFilesystem("proc", "proc", mountOptions{})
	if err != nil {
		return nil, fmt.Errorf("open a detached procfs: %w", err)
	}
	return f, nil
})

// detachedProc is how files below hostProc are opened.
const detachedProc = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// sysctls writes the spec's kernel parameters.
func (u *setup) sysctls() error {
	list := u.o.Spec.Linux.Sysctl
	if len(list) == 0 {
		return nil
	}
	if err := notHosts(u.o.Spec); err != nil {
		return err
	}
	proc, err := hostProc()
	if err != nil {
		return err
	}
	writeSysctls(u.p, proc, list, u.dest)
	return nil
}

// writeSysctls lets the child write kernel parameters of its namespaces.
func writeSysctls(p *stage.Program, proc *os.File, list map[string]string, cell stage.Cell) {
	how := p.Words(stage.Int(unix.O_WRONLY|unix.O_CLOEXEC), stage.Int(0), stage.Int(detachedProc))
	at := p.File(proc)
	for _, k := range slices.Sorted(maps.Keys(list)) {
		what := "set sysctl " + k
		p.Do(what, unix.SYS_OPENAT2, at, p.String("sys/"+sysctlFile(k)), how, stage.Int(24)).Into(cell)
		p.Do(what+"="+list[k], unix.SYS_WRITE, cell.Value(), p.String(list[k]), stage.Int(len(list[k])))
		p.Do("close", unix.SYS_CLOSE, cell.Value())
	}
}

// sysctlFile is a parameter's path below /proc/sys. As in sysctl(8), the first separator tells which one it is:
// in "net.ipv4.conf.eth0/100.forwarding" the slash stands for a dot, "net/ipv4/conf/eth0.100/forwarding" is a path.
func sysctlFile(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
