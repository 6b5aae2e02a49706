package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/sys"
)

// RestoreLog is where CRIU tells what it did, in Restore's WorkDir.
const RestoreLog = "restore.log"

// Restore says what to make anew, and in which container.
type Restore struct {
	// Dir has the images. They are not changed, and not trusted: see Bounds.
	Dir string
	// WorkDir is an empty folder for CRIU's log, and for what is mounted meanwhile in CRIU's own mount namespace.
	WorkDir string
	// Holder is a process that waits in the container: the restored ones get its mounts, its network namespace and its
	// standard input and output.
	Holder int
	// Binds are the targets of the container's bind mounts.
	Binds []string
	// SharedIPC and SharedUTS are set where the container shares the namespace with its pod.
	SharedIPC, SharedUTS bool
	// Groups are files of cgroup v1 that a thread joins by writing "0" (see cgroup.Group.Entries), Group is the folder
	// of cgroup v2, or nil: CRIU runs in them, and so do those that it makes.
	Groups []*os.File
	Group  *os.File
	// CgroupNamespace gives the container a cgroup namespace of its own.
	CgroupNamespace bool
	Bounds          Bounds
}

// Restore makes the processes of a checkpoint anew and lets them run, in the cgroups and the namespaces of a container
// that waits. It returns the first one's number; it is a child of this process if that is a subreaper. After an error
// some of the processes may be there, in the container's cgroup.
func (t Tool) Restore(ctx context.Context, r Restore) (pid int, err error) {
	mounts, err := readMounts(fmt.Sprintf("/proc/%d/mountinfo", r.Holder))
	if err != nil {
		return 0, err
	}
	if err := verify(r.Dir, r.Bounds, mounts); err != nil {
		return 0, err
	}
	streams, err := readDescriptors(r.Dir)
	if err != nil {
		return 0, err
	}
	files, err := r.files()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	out, err := os.CreateTemp(r.WorkDir, ".output-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	var ext []mount
	for _, m := range mounts {
		if m.target != "/" && m.isExternal(r.Binds) {
			ext = append(ext, m)
		}
	}
	cmd := t.command(r.args(ext, streams), out)
	cmd.ExtraFiles = files
	r.place(cmd.SysProcAttr)
	if err := r.run(ctx, cmd, ext); err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return 0, fmt.Errorf("restore: criu %s: %w: %s", t.Version, err, lastWords(filepath.Join(r.WorkDir, RestoreLog), out))
	}
	return r.readPid()
}

func (r Restore) run(ctx context.Context, cmd *exec.Cmd, ext []mount) error {
	if err := sys.OnThread(func() error {
		if err := r.enter(ext); err != nil {
			return err
		}
		return sys.Punctual(cmd.Start)
	}); err != nil {
		return err
	}
	return endWith(ctx, cmd)
}

// endWith waits for the program's end, and kills it when ctx ends: what it has made so far is no container yet.
func endWith(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return errors.Join(<-ended, ctx.Err())
}

// place puts CRIU where the restored processes shall be.
func (r Restore) place(attr *syscall.SysProcAttr) {
	if r.Group != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, int(r.Group.Fd())
	}
	if r.CgroupNamespace {
		attr.Unshareflags = unix.CLONE_NEWCGROUP // the child does so once it is in its cgroup
	}
}

// Descriptors of CRIU's: those of Restore.files.
const (
	fdNet = 3 + iota
	fdStdin
	fdStdout
	fdStderr
	fdNull
)

// files are the network namespace, and standard input and output, of the holder.
func (r Restore) files() (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	net, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", r.Holder))
	if err != nil {
		return nil, err
	}
	files = append(files, net)
	holder, err := unix.PidfdOpen(r.Holder, 0)
	if err != nil {
		return files, fmt.Errorf("open process %d: %w", r.Holder, err)
	}
	defer unix.Close(holder)
	for fd := range 3 {
		n, err := unix.PidfdGetfd(holder, fd, 0)
		if err != nil {
			return files, fmt.Errorf("take descriptor %d of process %d: %w", fd, r.Holder, err)
		}
		files = append(files, os.NewFile(uintptr(n), "stdio"))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return files, err
	}
	return append(files, null), nil
}

func (r Restore) args(ext []mount, streams map[string]int) []string {
	args := []string{
		"restore", "--images-dir", r.Dir, "--work-dir", r.WorkDir, "--log-file", RestoreLog, "-v3",
		"--restore-detached", "--pidfile", r.pidFile(), "--root", r.rootDir(),
		"--manage-cgroups=ignore", "--tcp-close", "--file-locks", "--ext-unix-sk", "--link-remap",
		"--inherit-fd", fmt.Sprintf("fd[%d]:net", fdNet),
	}
	for key, i := range streams {
		args = append(args, "--inherit-fd", fmt.Sprintf("fd[%d]:%s", [...]int{fdNull, fdStdin, fdStdout, fdStderr}[i+1], key))
	}
	for i, m := range ext {
		args = append(args, "--external", fmt.Sprintf("mnt[%s]:%s", m.target, r.extPath(i)))
	}
	return args
}

func (r Restore) pidFile() string      { return filepath.Join(r.WorkDir, "pid") }
func (r Restore) mountDir() string     { return filepath.Join(r.WorkDir, "mnt") }
func (r Restore) rootDir() string      { return filepath.Join(r.mountDir(), "root") }
func (r Restore) extPath(i int) string { return filepath.Join(r.mountDir(), strconv.Itoa(i)) }

// enter makes the calling thread's mount namespace one that has the host's mounts and, below mountDir, copies of the
// holder's root and of those of its mounts that CRIU can't make; then it joins what is shared, and the cgroups.
func (r Restore) enter(ext []mount) error {
	trees, err := r.copyMounts(ext)
	if err != nil {
		return err
	}
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll(r.mountDir(), 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", r.mountDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	for i, fd := range trees {
		to := r.rootDir()
		if i > 0 {
			to = r.extPath(i - 1)
		}
		if err := attach(fd, to); err != nil {
			return err
		}
	}
	if err := joinOf(r.Holder, r.SharedIPC, r.SharedUTS); err != nil {
		return err
	}
	for _, f := range r.Groups {
		if _, err := unix.Write(int(f.Fd()), []byte("0")); err != nil {
			return fmt.Errorf("join cgroup %s: %w", f.Name(), err)
		}
	}
	return nil
}

// copyMounts makes detached copies of the holder's root and of its mounts ext. They can be made from within its mount
// namespace only; the thread is back in its own afterwards.
func (r Restore) copyMounts(ext []mount) (trees []int, err error) {
	own, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", r.Holder))
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("unshare root: %w", err)
	}
	if err := unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("enter %s: %w", theirs.Name(), err)
	}
	for _, m := range append([]mount{{target: "/"}}, ext...) {
		fd, terr := unix.OpenTree(unix.AT_FDCWD, m.target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
		if terr != nil {
			err = fmt.Errorf("copy mount %s: %w", m.target, terr)
			break
		}
		trees = append(trees, fd)
	}
	if serr := unix.Setns(int(own.Fd()), unix.CLONE_NEWNS); serr != nil {
		err = errors.Join(err, fmt.Errorf("return to own mounts: %w", serr))
	}
	if err != nil {
		for _, fd := range trees {
			unix.Close(fd)
		}
		return nil, err
	}
	return trees, nil
}

// attach mounts a detached mount at a path, which it makes.
func attach(tree int, to string) error {
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(to, 0o700)
	} else {
		err = os.WriteFile(to, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return nil
}

func (r Restore) readPid() (int, error) {
	b, err := os.ReadFile(r.pidFile())
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("CRIU's file for the process number holds %q", b)
	}
	return pid, nil
}

// streamKey is how CRIU calls a file or a pipe of somebody else's.
var streamKey = sync.OnceValue(func() *regexp.Regexp { // 41 KiB, which few shims need
	return regexp.MustCompile(`^(file\[[0-9a-f]{1,8}:[0-9a-f]{1,16}\]|pipe:\[[0-9]{1,20}\])$`)
})

// readDescriptors reads the file Descriptors, and that of runc's name and format where there is no other: a list of
// what the first three descriptors are.
func readDescriptors(dir string) (map[string]int, error) {
	d, err := openImages(dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	out := map[string]int{}
	b, err := d.read(Descriptors)
	if err == nil {
		err = json.Unmarshal(b, &out)
	} else if b, rerr := d.read("descriptors.json"); rerr == nil {
		var list []string
		err = json.Unmarshal(b, &list)
		for i, key := range list[:min(len(list), 3)] {
			if strings.HasPrefix(key, "pipe:[") {
				out[key] = i
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("which files were its input and output: %w: %w", err, ErrMismatch)
	}
	if len(out) > maxStreams {
		return nil, fmt.Errorf("it names %d files as its input and output: %w", len(out), ErrMismatch)
	}
	for key, i := range out {
		if !streamKey().MatchString(key) || i < -1 || i > 2 {
			return nil, fmt.Errorf("its input and output: %.100q is %d: %w", key, i, ErrMismatch)
		}
	}
	return out, nil
}

// maxStreams bounds the names that a checkpoint has for input and output: a few, as each process may have opened
// /dev/null by itself.
const maxStreams = 256
