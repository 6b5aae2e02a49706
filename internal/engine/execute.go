package engine

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/caps"
	"github.com/11f9778f/berth/internal/engine/seccomp"
	"github.com/11f9778f/berth/internal/engine/stage"
)

// execution is the last program of a child: it becomes the user's process.
type execution struct {
	p       *stage.Program
	process *specs.Process
	caps    caps.Sets
	held    caps.Held
	filter  *seccomp.Filter // nil: none
	keep    int             // descriptors above 2 that the process gets
}

// build writes the program. The order matters: what needs privilege comes before it is dropped; the
// seccomp filter comes last where no_new_privs allows an unprivileged process to load it, so that it
// need not permit anything but execve. Where it can't, nothing that is newer than the oldest profiles may follow
// it: closing the descriptors at execve is asked for first of all.
func (e *execution) build() {
	e.do("close descriptors", unix.SYS_CLOSE_RANGE, stage.Int(3+e.keep), stage.Int(^uint32(0)), stage.Int(unix.CLOSE_RANGE_CLOEXEC))
	e.workingDirectory()
	umask := uint32(0o022)
	if e.process.User.Umask != nil {
		umask = *e.process.User.Umask
	}
	e.do("set umask", unix.SYS_UMASK, stage.Int(umask))
	if !e.process.NoNewPrivileges {
		e.seccomp()
	}
	e.credentials()
	if e.process.NoNewPrivileges {
		e.do("set no_new_privs", unix.SYS_PRCTL, stage.Int(unix.PR_SET_NO_NEW_PRIVS), stage.Int(1), stage.Int(0), stage.Int(0), stage.Int(0))
	}
	if e.process.NoNewPrivileges {
		e.seccomp()
	}
	e.execve()
}

func (e *execution) do(what string, nr uintptr, args ...stage.Arg) *stage.Instruction {
	return e.p.Do(what, nr, args...)
}

// workingDirectory enters process.cwd without following a magic link (CVE-2024-21626).
func (e *execution) workingDirectory() {
	how := e.p.Words(stage.Int(openPath|unix.O_DIRECTORY), stage.Int(0), stage.Int(unix.RESOLVE_NO_MAGICLINKS))
	cwd := stage.Answered(0)
	what := "enter working directory " + e.process.Cwd
	e.do(what, unix.SYS_OPENAT2, stage.Int(unix.AT_FDCWD), e.p.String(e.process.Cwd), how, stage.Int(24)).Into(cwd)
	e.do(what, unix.SYS_FCHDIR, cwd.Value())
	e.do("close", unix.SYS_CLOSE, cwd.Value())
}

func (e *execution) prctl(what string, args ...int) *stage.Instruction {
	list := make([]stage.Arg, 5)
	for n := range list {
		if n < len(args) {
			list[n] = stage.Int(args[n])
		}
	}
	return e.do(what, unix.SYS_PRCTL, list...)
}

// credentials drops to the user and the capability sets of the process.
func (e *execution) credentials() {
	for n := 0; n <= e.held.Last; n++ {
		if !e.caps.Bounding.Has(n) && e.held.Bounding.Has(n) {
			e.prctl("drop capability "+caps.Name(n)+" from the bounding set", unix.PR_CAPBSET_DROP, n)
		}
	}
	e.prctl("keep capabilities over setuid", unix.PR_SET_KEEPCAPS, 1)
	u := e.process.User
	groups := make([]byte, 0, 4*len(u.AdditionalGids))
	for _, g := range u.AdditionalGids {
		groups = append(groups, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	e.do("set supplementary groups", unix.SYS_SETGROUPS, stage.Int(len(u.AdditionalGids)), e.p.Bytes(groups))
	e.do("set group", unix.SYS_SETRESGID, stage.Int(u.GID), stage.Int(u.GID), stage.Int(u.GID))
	e.do("set user", unix.SYS_SETRESUID, stage.Int(u.UID), stage.Int(u.UID), stage.Int(u.UID))
	e.prctl("reset keepcaps", unix.PR_SET_KEEPCAPS, 0)
	e.capset()
	e.prctl("clear ambient capabilities", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL).Tolerate(unix.EINVAL)
	for n := 0; n <= e.held.Last; n++ {
		if e.caps.Ambient.Has(n) {
			e.prctl("raise ambient capability "+caps.Name(n), unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
}

// capset sets effective, permitted and inheritable (struct __user_cap_data_struct, version 3: twice three
// 32-bit words).
func (e *execution) capset() {
	header := e.p.Words(stage.Int(unix.LINUX_CAPABILITY_VERSION_3)) // pid 0: itself
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, m := range []caps.Mask{e.caps.Effective, e.caps.Permitted, e.caps.Inheritable} {
			v := uint32(uint64(m) >> shift)
			data = append(data, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
		}
	}
	e.do("set capabilities", unix.SYS_CAPSET, header, e.p.Bytes(data))
}

// seccomp loads the filter (struct sock_fprog: length, pointer).
func (e *execution) seccomp() {
	if e.filter == nil {
		return
	}
	prog := e.p.Words(stage.Int(len(e.filter.Program)), e.p.Bytes(e.filter.Bytes()))
	e.do("load seccomp filter", unix.SYS_SECCOMP, stage.Int(unix.SECCOMP_SET_MODE_FILTER), stage.Int(e.filter.Flags), prog)
}

// execve tries what execvp(3) would: the path itself, or each directory of PATH.
func (e *execution) execve() {
	argv, envp := e.p.Strings(e.process.Args), e.p.Strings(e.process.Env)
	name := e.process.Args[0]
	if strings.Contains(name, "/") {
		e.do(execWhat, unix.SYS_EXECVE, e.p.String(name), argv, envp)
		return
	}
	dirs := strings.Split(searchPath(e.process.Env), ":")
	for n, dir := range dirs {
		i := e.do(execWhat, unix.SYS_EXECVE, e.p.String(path.Join("/", dir, name)), argv, envp)
		if n < len(dirs)-1 {
			i.Tolerate(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
}

// execWhat marks execve among a program's calls, for execError.
const execWhat = "execute"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// searchPath is the PATH of the process, the last one if there are several, as libc's getenv is not.
func searchPath(env []string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok && v != "" {
			return v
		}
	}
	return defaultPath
}
