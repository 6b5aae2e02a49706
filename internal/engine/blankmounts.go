package engine

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// BlankMounts is a mount namespace with nothing in it but an empty root directory and the host's /dev/null. Containers
// whose creator has one begin in a copy of that, and not of the host's mounts: of these a full node has four for each pod, and
// the kernel would copy all of them for each start, and let go of them at its pivot_root. It is made once, at
// first use, and goes with the process. The nil one makes containers begin in copies of their creator's mounts.
type BlankMounts struct {
	once sync.Once
	ns   *os.File
	err  error
}

// Prepare makes the namespace, so that no container has to wait for it.
func (b *BlankMounts) Prepare() error {
	b.once.Do(func() {
		if b.ns, b.err = newBlankMounts(); b.err != nil {
			b.err = fmt.Errorf("make an empty mount namespace: %w", b.err)
		}
	})
	return b.err
}

// beginsBlank tells whether the container begins in a copy of o.Blank: it has a new mount namespace, its root is going to be
// pivoted, and no hook looks for the host's files there. In a user namespace the kernel mounts a proc only where one is seen
// already (mount_too_revealing).
func beginsBlank(o CreateOptions) (bool, error) {
	ns, ok := namespace(o.Spec, specs.MountNamespace)
	if o.Blank == nil || !ok || ns.Path != "" || o.NoPivot || twoSteps(o.Spec) || createHooks(o.Spec) {
		return false, nil
	}
	if err := o.Blank.Prepare(); err != nil {
		return false, err
	}
	return o.Blank.ns != nil, nil
}

// begin takes the child into a copy of the namespace.
func (b *BlankMounts) begin(p *stage.Program) {
	p.Do("enter the empty mount namespace", unix.SYS_SETNS, p.File(b.ns), stage.Int(unix.CLONE_NEWNS))
	p.Do("new mount namespace", unix.SYS_UNSHARE, stage.Int(unix.CLONE_NEWNS))
}

// newBlankMounts returns nil where there can't be one: this process is in a user namespace, or its root can't be pivoted.
func newBlankMounts() (ns *os.File, err error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/user", &st); err != nil {
		return nil, fmt.Errorf("find out the user namespace: %w", err)
	}
	if st.Ino != initialUserNamespace {
		return nil, nil
	}
	null, err := bindTree("/dev/null", mountOptions{})
	if err != nil {
		return nil, err
	}
	defer null.Close()
	err = inPrivateMounts(func(base *os.File) error {
		if ns, err = os.Open(callerMountsFile); err != nil {
			return err
		}
		return leaveOnly(base, null)
	})
	if err == nil {
		return ns, nil
	}
	if ns != nil {
		ns.Close()
	}
	if errors.Is(err, errNoPivot) {
		return nil, nil
	}
	return nil, err
}

// initialUserNamespace is the inode of the user namespace that the machine has booted with (linux/nsfs.h, USER_NS_INIT_INO).
const initialUserNamespace = 0xEFFFFFFD

var errNoPivot = errors.New("the root directory can't be pivoted")

// leaveOnly makes base, which is mounted at "/", all that the calling thread's mount namespace has, with null as its /dev/null.
func leaveOnly(base, null *os.File) error {
	if err := unix.Mkdirat(int(base.Fd()), "dev", 0o755); err != nil {
		return fmt.Errorf("mkdir dev: %w", err)
	}
	if err := unix.Mknodat(int(base.Fd()), "dev/null", unix.S_IFREG, 0); err != nil {
		return fmt.Errorf("create dev/null: %w", err)
	}
	if err := unix.MoveMount(int(null.Fd()), "", int(base.Fd()), "dev/null", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach /dev/null: %w", err)
	}
	if err := unix.Fchdir(int(base.Fd())); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w: %w", err, errNoPivot)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the host's filesystem: %w", err)
	}
	return setAttr(base, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
}
