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
	linux   *specs.Linux    // of the container
	gate    *gate           // nil: the filter has no listener
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
	e.domains(e.linux)
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

// cwdCell is the answered cell with the descriptor of the working directory.
const cwdCell = 13

// workingDirectory enters process.cwd without following a magic link (CVE-2024-21626). A directory that root may not
// enter (on NFS, say) waits until the child is the user.
func (e *execution) workingDirectory() {
	var denied stage.Label
	if i := e.openCwd(); e.process.User.UID != 0 {
		i.Tolerate(unix.EACCES).ElseGoTo(&denied)
	}
	e.do("enter working directory "+e.process.Cwd, unix.SYS_FCHDIR, stage.Answered(cwdCell).Value())
	e.p.Mark(&denied)
}

func (e *execution) openCwd() *stage.Instruction {
	how := e.p.Words(stage.Int(openPath|unix.O_DIRECTORY), stage.Int(0), stage.Int(unix.RESOLVE_NO_MAGICLINKS))
	i := e.do("enter working directory "+e.process.Cwd, unix.SYS_OPENAT2, stage.Int(unix.AT_FDCWD), e.p.String(e.process.Cwd), how, stage.Int(24))
	return i.Into(stage.Answered(cwdCell))
}

// workingDirectoryAsUser is the second try.
func (e *execution) workingDirectoryAsUser() {
	if e.process.User.UID == 0 {
		return
	}
	cwd := stage.Answered(cwdCell)
	var again, done stage.Label
	e.do("look for working directory", unix.SYS_FCNTL, cwd.Value(), stage.Int(unix.F_GETFD)).Tolerate(unix.EBADF).ElseGoTo(&again)
	e.p.GoTo(&done)
	e.p.Mark(&again)
	e.openCwd()
	e.do("enter working directory "+e.process.Cwd, unix.SYS_FCHDIR, cwd.Value())
	e.p.Mark(&done)
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
	e.workingDirectoryAsUser()
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
	flags := e.filter.Flags
	if e.gate != nil {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		if flags&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 { // of one thread; without this flag the two exclude one another
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
		}
	}
	load := e.do("load seccomp filter", unix.SYS_SECCOMP, stage.Int(unix.SECCOMP_SET_MODE_FILTER), stage.Int(flags), prog)
	if e.gate != nil {
		load.Into(stage.Answered(listenerCell))
		e.p.Answer()
		e.do("wait for the seccomp agent", unix.SYS_WRITE, e.p.File(e.gate.w), e.p.Bytes([]byte{0}), stage.Int(1))
	}
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
