package criu

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
)

// ErrMismatch is wrapped by errors that say that a checkpoint does not fit the container that it is to be restored
// into. An archive of a checkpoint is data of somebody's, and CRIU does as its images say, as root: what they say is
// held against the container's configuration first.
var ErrMismatch = errors.New("the checkpoint does not fit the container")

// Bounds are what the processes of a checkpoint may have.
type Bounds struct {
	// Capabilities is the container's bounding set.
	Capabilities uint64
	// NoNewPrivileges and Seccomp are set if every process must have them.
	NoNewPrivileges, Seccomp bool
	// HostNetwork is set if the container has no network namespace of its own.
	HostNetwork bool
	// UID is the user that the container's configuration names. Only root may have become somebody else.
	UID uint32
	// OOMScoreAdj, if any, is the least score that a process may have.
	OOMScoreAdj *int
}

// Fields of CRIU's messages (images/core.proto, creds.proto, mnt.proto, inventory.proto).
const (
	coreTask        = 3
	taskState       = 1
	taskOOMScore    = 14
	coreThread      = 5
	threadCreds     = 10
	threadSeccomp   = 11
	credsUID        = 1 // to 8: uid, gid, euid, egid, suid, sgid, fsuid, fsgid
	credsInh        = 9 // and permitted, effective, bounding
	credsBnd        = 12
	credsNoNewPrivs = 18
	credsAmb        = 19
	inventoryIDs    = 3
	idsPID, idsNet  = 5, 6
	idsMnt, idsUser = 9, 10
	mntType         = 1
	mntFlags        = 5
	mntRoot         = 6
	mntPoint        = 7
	mntExternal     = 13
	mntSBFlags      = 17
	mntKey          = 18
	treePID         = 1
	seccompFilter   = 2
	stateDead       = 2 // compel/include/uapi/task-state.h
)

// Filesystems that CRIU makes anew, by their numbers in its images. All others are somebody else's and come from the
// container that waits.
var ownFilesystems = map[uint64]string{1: "proc", 2: "sysfs", 5: "tmpfs", 6: "devpts", 14: "mqueue"}

// verify holds images against the container that they shall become, of which mounts is the mount table.
func verify(dir string, b Bounds, mounts []mount) error {
	err := held(dir, b, mounts)
	if errors.Is(err, errImage) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, ErrMismatch)
	}
	return err
}

func held(dir string, b Bounds, mounts []mount) error {
	d, err := openImages(dir)
	if err != nil {
		return err
	}
	defer d.close()
	root, err := d.namespaces(b.HostNetwork)
	if err != nil {
		return err
	}
	if err := d.mountsMatch(root, mounts); err != nil {
		return err
	}
	return d.processesMatch(b)
}

// namespaces makes sure that the processes leave CRIU's own mount and PID namespaces, and returns the IDs of the first.
func (d *imageFolder) namespaces(hostNetwork bool) (message, error) {
	inventory, err := d.single("inventory.img")
	if err != nil {
		return nil, err
	}
	theirs, err := inventory.sub(inventoryIDs)
	if err != nil {
		return nil, fmt.Errorf("inventory.img: %w", err)
	}
	tree, err := d.messages("pstree.img")
	if err != nil {
		return nil, err
	}
	if len(tree) == 0 || tree[0].number(treePID) != 1 {
		return nil, fmt.Errorf("its first process is not the first of a PID namespace: %w", ErrMismatch)
	}
	root, err := d.single("ids-1.img")
	if err != nil {
		return nil, err
	}
	for id, name := range map[uint64]string{idsPID: "PID", idsMnt: "mount", idsNet: "network"} {
		if id == idsNet && hostNetwork {
			continue
		}
		if root.number(id) == 0 || root.number(id) == theirs.number(id) {
			return nil, fmt.Errorf("its first process has no %s namespace of its own: %w", name, ErrMismatch)
		}
	}
	for _, name := range d.like("ids") {
		ids, err := d.single(name)
		if err != nil {
			return nil, err
		}
		if ids.number(idsUser) != theirs.number(idsUser) {
			return nil, fmt.Errorf("a process is in a user namespace, which can't be restored yet: %w", ErrUnsupported)
		}
		if ids.number(idsMnt) != root.number(idsMnt) {
			return nil, fmt.Errorf("a process is in a mount namespace of its own, which can't be restored: %w", ErrUnsupported)
		}
	}
	return root, nil
}

// mountsMatch compares the mounts of the images with those of the waiting container: each is in both, of the same
// kind, and read-only where the container's is.
func (d *imageFolder) mountsMatch(root message, mounts []mount) error {
	name := fmt.Sprintf("mountpoints-%d.img", root.number(idsMnt))
	if all := d.like("mountpoints"); len(all) != 1 || all[0] != name {
		return fmt.Errorf("it has the mount tables %s, where %s alone is expected: %w", quoteAll(all), name, errImage)
	}
	list, err := d.messages(name)
	if err != nil {
		return err
	}
	waiting := map[string]mount{}
	for _, m := range mounts {
		waiting[m.target] = m // the topmost of several
	}
	seen := map[string]bool{}
	for _, m := range list {
		target := path.Clean("/" + strings.TrimPrefix(m.text(mntPoint), "."))
		seen[target] = true
		if err := mountMatches(m, target, waiting); err != nil {
			return err
		}
	}
	for target := range waiting {
		if !seen[target] {
			return fmt.Errorf("the container mounts %s, the checkpoint does not: %w", target, ErrMismatch)
		}
	}
	return nil
}

func mountMatches(m message, target string, waiting map[string]mount) error {
	w, ok := waiting[target]
	if !ok {
		return fmt.Errorf("the checkpoint mounts %s, the container does not: %w", target, ErrMismatch)
	}
	if has := m.number(mntFlags) | m.number(mntSBFlags)&syscall.MS_RDONLY; w.limits&^has != 0 {
		return fmt.Errorf("%s forbids more in the container than in the checkpoint (read-only, nosuid, nodev or noexec): %w", target, ErrMismatch)
	}
	if target == "/" {
		return nil // it is the container's
	}
	if m.text(mntKey) != "" || m.number(mntExternal) != 0 {
		if key := m.text(mntKey); key != target {
			return fmt.Errorf("the checkpoint calls its mount %s %q: %w", target, key, ErrMismatch)
		}
		return nil // it is the container's
	}
	kind := ownFilesystems[m.number(mntType)]
	if kind == "" || kind != w.fstype || m.text(mntRoot) != w.root {
		return fmt.Errorf("%s is %s %s in the container, something else in the checkpoint: %w", target, w.fstype, w.root, ErrMismatch)
	}
	return nil
}

// processesMatch holds the rights of each thread against the bounds.
func (d *imageFolder) processesMatch(b Bounds) error {
	cores := d.like("core")
	if len(cores) == 0 {
		return fmt.Errorf("there is no process in it: %w", errImage)
	}
	for _, name := range cores {
		core, err := d.single(name)
		if err != nil {
			return err
		}
		if core.isZombie() {
			continue
		}
		thread, err := core.sub(coreThread)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		creds, err := thread.sub(threadCreds)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := b.allowScore(core); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := b.allow(thread, creds); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// isZombie tells whether a process has ended and waits for its parent: it has no thread, and so no rights. CRIU makes one that
// exits.
func (m message) isZombie() bool {
	task, err := m.sub(coreTask)
	return err == nil && task.number(taskState) == stateDead && len(m[coreThread]) == 0
}

// allowScore looks at the score of a process; a thread has none.
func (b Bounds) allowScore(core message) error {
	if b.OOMScoreAdj == nil || len(core[coreTask]) == 0 {
		return nil
	}
	task, err := core.sub(coreTask)
	if err != nil {
		return err
	}
	if score := int(int32(task.number(taskOOMScore))); score < *b.OOMScoreAdj {
		return fmt.Errorf("a process has the OOM score %d, the container's is %d: %w", score, *b.OOMScoreAdj, ErrMismatch)
	}
	return nil
}

func (b Bounds) allow(thread, creds message) error {
	for _, id := range []uint64{credsInh, credsInh + 1, credsInh + 2, credsBnd, credsAmb} {
		mask, err := creds.mask(id)
		if err != nil {
			return err
		}
		if more := mask &^ b.Capabilities; more != 0 {
			return fmt.Errorf("a process has the capabilities %#x, which the container does not give: %w", more, ErrMismatch)
		}
	}
	if b.NoNewPrivileges && creds.number(credsNoNewPrivs) == 0 {
		return fmt.Errorf("a process may gain privileges, which the container forbids: %w", ErrMismatch)
	}
	if b.Seccomp && thread.number(threadSeccomp) != seccompFilter {
		return fmt.Errorf("a process has no seccomp filter, which the container asks for: %w", ErrMismatch)
	}
	if b.UID == 0 {
		return nil
	}
	for _, id := range []uint64{credsUID, credsUID + 2, credsUID + 4, credsUID + 6} {
		if uid := uint32(creds.number(id)); uid != b.UID {
			return fmt.Errorf("a process is user %d, the container's user is %d: %w", uid, b.UID, ErrMismatch)
		}
	}
	return nil
}
