package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// LogFile is where CRIU tells what it did, in Dump's Dir.
const LogFile = "dump.log"

// killGrace is how long a CRIU may go on after the caller's patience has ended. One that is killed in the middle may
// leave a process of the container with a foreign instruction in it, one that ends by itself never does.
const killGrace = 30 * time.Second

// Dump says what to write and where.
type Dump struct {
	// Pid is the container's first process.
	Pid int
	// Pids are all processes of the container; files of the host's that they have open are noted as somebody else's.
	Pids []int
	// Dir gets the images. It must exist and be empty.
	Dir string
	// Binds are the targets of the container's bind mounts.
	Binds []string
	// Frozen is set if the container's cgroup is frozen. It is so again afterwards.
	Frozen bool
	// Stdio are the paths of the FIFOs that serve the first process as standard input, output and error; "" where
	// there is none.
	Stdio [3]string
	// SharedIPC and SharedUTS are set where the container shares the namespace with its pod. What is in it is not
	// written then, as the container will get its new pod's.
	SharedIPC, SharedUTS bool
	// Terminal is set if the container's first process has one, whose other end the caller holds.
	Terminal bool
}

// Dump writes the images of a container's processes, which run on. Established TCP connections are not kept: a
// restored process sees them closed, and no packet of the living ones is held up.
func (t Tool) Dump(ctx context.Context, d Dump) error {
	args, err := d.args()
	if err != nil {
		return fmt.Errorf("checkpoint process %d: %w", d.Pid, err)
	}
	out, err := os.CreateTemp(d.Dir, ".output-")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := t.command(args, out)
	if err := sys.OnThread(func() error {
		if err := joinOf(d.Pid, d.SharedIPC, d.SharedUTS); err != nil {
			return err
		}
		return sys.Punctual(cmd.Start)
	}); err != nil {
		return fmt.Errorf("start %s: %w", t.Path, err)
	}
	err = wait(ctx, cmd)
	os.Remove(out.Name())
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("checkpoint process %d: %w", d.Pid, cause)
	}
	words := lastWords(filepath.Join(d.Dir, LogFile), out)
	if strings.Contains(words, "Can't get rlimit") {
		return fmt.Errorf("checkpoint process %d: criu %s: reading the limits of another user's process needs CAP_SYS_RESOURCE, which this node lacks: %w", d.Pid, t.Version, ErrUnsupported)
	}
	return fmt.Errorf("checkpoint process %d: criu %s: %w: %s", d.Pid, t.Version, err, words)
}

// command is a call of CRIU. It writes into a file and not a pipe: a CRIU whose starter dies must come to its end all
// the same.
func (t Tool) command(args []string, out *os.File) *exec.Cmd {
	cmd := exec.Command(t.Path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// wait waits for the program's end; when ctx has ended and a grace is over, it is killed.
func wait(ctx context.Context, cmd *exec.Cmd) error {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case err := <-ended:
		return errors.Join(err, ctx.Err())
	case <-grace.C:
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return errors.Join(<-ended, ctx.Err())
}

func (d Dump) args() ([]string, error) {
	ext, err := d.externals()
	if err != nil {
		return nil, err
	}
	args := []string{
		"dump", "--tree", fmt.Sprint(d.Pid), "--images-dir", d.Dir, "--work-dir", d.Dir, "--log-file", LogFile, "-v3",
		"--leave-running",
		// Limits are the container's configuration, and its cgroup is made anew.
		"--manage-cgroups=ignore",
		// The network is the pod's: it is neither dumped nor held up.
		"--tcp-close", "--network-lock", "skip",
		"--file-locks", "--ext-unix-sk", "--link-remap",
	}
	for _, e := range ext {
		args = append(args, "--external", e)
	}
	if d.Terminal {
		args = append(args, "--shell-job")
	}
	if d.Frozen {
		dir, err := freezer(d.Pid)
		if err != nil {
			return nil, err
		}
		args = append(args, "--freeze-cgroup", dir)
	}
	return args, nil
}

// lastWords are the errors at the end of CRIU's log.
func lastWords(file string, out *os.File) string {
	log, err := readTail(file)
	if err != nil || len(log) == 0 {
		log = make([]byte, 4096)
		n, _ := out.ReadAt(log, 0)
		return firstLine(string(log[:n]))
	}
	var errs []string
	for line := range bytes.Lines(log) {
		if _, text, ok := bytes.Cut(line, []byte("Error ")); ok && !bytes.Contains(text, []byte("RLIMIT_NOFILE")) {
			errs = append(errs, strings.TrimSpace(string(text)))
		}
	}
	if len(errs) > 3 {
		errs = errs[:3] // the first says why, later ones what followed
	}
	return strings.Join(errs, "; ")
}

// readTail reads the last 64 KiB of a file.
func readTail(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(st.Size(), 64<<10))
	n, err := f.ReadAt(buf, st.Size()-int64(len(buf)))
	return buf[:n], err
}
