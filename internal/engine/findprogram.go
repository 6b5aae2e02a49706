package engine

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// findProgram lets the child look for the program, inside its root: one that is not there is an error of Create then.
// Whether it can be executed is left to Start, and so is a path that begins at the working directory, and a program that a
// startContainer hook may bring.
func (u *setup) findProgram() {
	s := u.o.Spec
	name := s.Process.Args[0]
	if strings.Contains(name, "/") && !path.IsAbs(name) || s.Hooks != nil && len(s.Hooks.StartContainer) > 0 {
		return
	}
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for dir := range strings.SplitSeq(searchPath(s.Process.Env), ":") {
			candidates = append(candidates, path.Join("/", dir, name))
		}
	}
	var found, there stage.Label
	at := stage.Int(unix.AT_FDCWD)
	for n, c := range candidates {
		look := u.do(execWhat, unix.SYS_FACCESSAT, at, u.p.String(c), stage.Int(unix.F_OK))
		if n == len(candidates)-1 {
			look.Tolerate(unix.EACCES, unix.ELOOP, unix.ENAMETOOLONG).ElseGoTo(&there)
			break
		}
		var next stage.Label
		look.TolerateAny().ElseGoTo(&next)
		u.p.GoTo(&found)
		u.p.Mark(&next)
	}
	u.p.Mark(&found)
	u.p.Mark(&there)
}
