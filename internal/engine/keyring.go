package engine

import (
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// A container has a session keyring of its own (session-keyring(7)): with its creator's, its processes could read what
// others of that session keep there. Its name is the one that runc gives it.

func keyringName(id string) string { return "_ses." + id }

// keyringPermissions are all for who possesses the keyring, and view, read, search and link for its owner: an exec'd
// process finds it by its name, which takes search (keyctl_setperm(3)).
const keyringPermissions = 0x3f1b0000

// newKeyring gives the child the keyring. A kernel without keys, or one where others forbid keyctl, has none to share.
func (u *setup) newKeyring() {
	done := new(stage.Label)
	joinKeyring(u.p, u.o.ID).Into(u.scratch).ElseGoTo(done)
	u.do("set permissions of the session keyring", unix.SYS_KEYCTL, stage.Int(unix.KEYCTL_SETPERM), u.scratch.Value(), stage.Int(keyringPermissions)).
		Tolerate(unix.ENOSYS, unix.EPERM)
	u.p.Mark(done)
}

// joinKeyring makes the keyring of the container the child's, or a new one if there is none.
func joinKeyring(p *stage.Program, id string) *stage.Instruction {
	return p.Do("join a session keyring", unix.SYS_KEYCTL, stage.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), p.String(keyringName(id))).
		Tolerate(unix.ENOSYS, unix.EPERM)
}
