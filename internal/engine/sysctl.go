package engine

import (
	"fmt"
	"sort"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// sysctlNamespace tells which namespace a kernel parameter belongs to; ok is false for one that would
// change the host.
func sysctlNamespace(key string) (t specs.LinuxNamespaceType, ok bool) {
	switch {
	case strings.HasPrefix(key, "net."):
		return specs.NetworkNamespace, true
	case strings.HasPrefix(key, "fs.mqueue."),
		key == "kernel.msgmax", key == "kernel.msgmnb", key == "kernel.msgmni", key == "kernel.sem",
		key == "kernel.shmall", key == "kernel.shmmax", key == "kernel.shmmni", key == "kernel.shm_rmid_forced":
		return specs.IPCNamespace, true
	case key == "kernel.domainname":
		return specs.UTSNamespace, true
	}
	return "", false
}

// checkSysctl refuses parameters that do not belong to a namespace of the container's own.
func checkSysctl(spec *specs.Spec, key, value string) error {
	key = strings.ReplaceAll(key, "/", ".")
	t, ok := sysctlNamespace(key)
	if !ok {
		return fmt.Errorf("linux.sysctl: %q belongs to no namespace: setting it would change the host", key)
	}
	if strings.Contains(key, "..") || strings.ContainsAny(value, "\n\x00") {
		return fmt.Errorf("linux.sysctl: %q: bad name or value", key)
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == t {
			return nil
		}
	}
	return fmt.Errorf("linux.sysctl: %q needs a %s namespace, and the container shares the host's", key, t)
}

// sysctls writes the spec's kernel parameters through a procfs of the child's own that is attached
// nowhere: no mount of the container can redirect the write.
func (u *setup) sysctls() error {
	list := u.o.Spec.Linux.Sysctl
	if len(list) == 0 {
		return nil
	}
	keys := make([]string, 0, len(list))
	for k := range list {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	u.newFilesystem("open procfs for sysctls", "proc", "proc", mountOptions{})
	how := u.p.Words(stage.Int(unix.O_WRONLY|unix.O_CLOEXEC), stage.Int(0),
		stage.Int(unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV))
	for _, k := range keys {
		what := "set sysctl " + k
		path := "sys/" + strings.ReplaceAll(k, ".", "/")
		u.do(what, unix.SYS_OPENAT2, u.mount.Value(), u.p.String(path), how, stage.Int(24)).Into(u.dest)
		u.do(what+"="+list[k], unix.SYS_WRITE, u.dest.Value(), u.p.String(list[k]), stage.Int(len(list[k])))
		u.closeCell(u.dest)
	}
	u.closeCell(u.mount)
	return nil
}
