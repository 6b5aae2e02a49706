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

// BlankMounts is a mount namespace with nothing in it but an empty root directory and the host's /dev/null. Once it is
// prepared, containers begin in a copy of that, and not of the host's mounts: of these a full node has four for each pod, and
// the kernel would copy all of them for each start, and let go of them at its pivot_root. It goes with the process.
type BlankMounts struct {
	mu sync.Mutex
	ns *os.File
}

// Prepare makes the namespace, unless it is there, or can't be: in a user namespace, or where the root can't be pivoted. It costs
// some 100 KiB and a copy of all mounts, so that it pays from the third container on.
func (b *BlankMounts) Prepare() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ns != nil {
		return nil
	}
	ns, err := newBlankMounts()
	if err != nil {
		return fmt.Errorf("make an empty mount namespace: %w", err)
	}
	b.ns = ns
	return nil
}

// prepared returns the namespace if there is one.
func (b *BlankMounts) prepared() *os.File {
	if b == nil || !b.mu.TryLock() {
		return nil
	}
	defer b.mu.Unlock()
	return b.ns
}

// blankFor returns the namespace that the container begins in a copy of, nil if it does not: it has to have a new mount
// namespace and a root that will be pivoted, and no hooks or mounts that look for the host's files there. In a user namespace
// the kernel mounts a proc only where one is seen already (mount_too_revealing).
func blankFor(o CreateOptions) *os.File {
	ns, ok := namespace(o.Spec, specs.MountNamespace)
	if !ok || ns.Path != "" || o.NoPivot || twoSteps(o.Spec) || createHooks(o.Spec) {
		return nil
	}
	for _, m := range o.Spec.Mounts {
		if !isBind(m.Type, m.Options) && !withoutPaths[m.Type] {
			return nil
		}
	}
	return o.Blank.prepared()
}

// withoutPaths are the types of filesystems that are made of no path of the host. Of a bind the parent makes a copy.
var withoutPaths = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true, "cgroup": true, "cgroup2": true,
}

// beginBlank takes the child into a copy of the namespace.
func beginBlank(p *stage.Program, blank *os.File) {
	p.Do("enter the empty mount namespace", unix.SYS_SETNS, p.File(blank), stage.Int(unix.CLONE_NEWNS))
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
