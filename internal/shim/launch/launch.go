// Package launch starts a shim process and is what that process reads first. Both starters use it: the daemon's shim
// client, and the `start` command by which a stock containerd starts the shim.
//
// A shim is started detached: its own session, no terminal, no death with its parent, its own log file. It reads one
// Boot from standard input, gets the lock of its directory as descriptor 3 and those of a dead predecessor from number
// 4 on, and writes one Ready to standard output when it answers on its socket. The lock is taken before the process
// exists and let go when it ends (a successor that it executes in its place inherits it), so there is never more than one shim in a directory, and never one that nobody sees
// (Lives), whenever its starter died.
package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

// LogFile is the name of the shim's own log in a group's directory.
const LogFile = "shim.log"

const lockFile = "lock"

// What a shim inherits beside its standard streams.
const (
	lockFD  = 3
	filesFD = 4
)

// Lives tells whether a shim lives in the directory, or is about to.
func Lives(dir string) bool {
	f, err := sys.LockFile(filepath.Join(dir, lockFile))
	if err == nil {
		f.Close()
	}
	return errors.Is(err, sys.ErrLocked)
}

// maxBoot bounds what a shim reads from standard input.
const maxBoot = 1 << 20

// Boot is what a shim must know.
type Boot struct {
	Dir        string `json:"dir"`
	Group      string `json:"group"`
	Generation uint32 `json:"generation"`
	Namespace  string `json:"namespace"`
	// EventsAddress is the daemon's ttrpc socket.
	EventsAddress string `json:"eventsAddress,omitempty"`
	Managed       bool   `json:"managed,omitempty"`
	// LogSize and LogFiles are the shim's own rotation of CRI logs; 0 is none.
	LogSize  int64 `json:"logSize,omitempty"`
	LogFiles int   `json:"logFiles,omitempty"`
	// Files names the inherited descriptors, from 4 on.
	Files []string `json:"files,omitempty"`
	// Numbers are those of Files, where a shim has executed its successor: see Execute.
	Numbers []int `json:"numbers,omitempty"`
}

// Ready is the shim's answer.
type Ready struct {
	Pid int `json:"pid"`
	// Error says why the shim could not begin.
	Error string `json:"error,omitempty"`
}

// Start starts the shim at binary, in the group's directory b.Dir, and waits until it is ready or ctx ends. files are
// closed. The process is a child of this one: the caller waits for it with Cmd.Wait once it has ended.
func Start(ctx context.Context, binary string, b Boot, files map[string]*sys.Held) (*exec.Cmd, error) {
	cmd := exec.Command(binary, "-namespace", b.Namespace, "-id", b.Group, "serve")
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}()
	lock, err := take(filepath.Join(b.Dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, lock)
	b.Files = nil
	for name, held := range files {
		b.Files = append(b.Files, name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, held.File(name))
	}
	boot, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	logFile, err := os.OpenFile(filepath.Join(b.Dir, LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	defer logFile.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start shim: %w", err)
	}
	defer out.Close()
	cmd.Dir = "/"
	cmd.Env = environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(boot), stdout, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = sys.Punctual(cmd.Start)
	stdout.Close()
	if err != nil {
		return nil, fmt.Errorf("start shim %s: %w", binary, err)
	}
	if err := awaitReady(ctx, out); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("start shim %s: %w (see %s)", binary, err, logFile.Name())
	}
	return cmd, nil
}

// take locks the file at path. It tries for a moment: Lives has the lock for an instant.
func take(path string) (lock *os.File, err error) {
	for range 20 {
		if lock, err = sys.LockFile(path); !errors.Is(err, sys.ErrLocked) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return lock, err
}

// environment is what a shim needs of ours. A container's environment comes from its spec alone, but less is safer.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		for _, keep := range []string{"PATH=", "BERTH_", "DBUS_SYSTEM_BUS_ADDRESS=", "GODEBUG=", "GOTRACEBACK=", "GOCOVERDIR="} {
			if strings.HasPrefix(kv, keep) {
				return false
			}
		}
		return true
	})
}

func awaitReady(ctx context.Context, out *os.File) error {
	deadline := time.Now().Add(15 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	out.SetReadDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { out.SetReadDeadline(time.Now()) })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(out, 64<<10))
	if err != nil {
		return fmt.Errorf("it does not get ready: %w", err)
	}
	var r Ready
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("it ended before it was ready (it said %q)", b)
	}
	if r.Error != "" {
		return fmt.Errorf("%s", r.Error)
	}
	return nil
}

// bootVariable holds the number of the descriptor that a shim which was executed by its predecessor reads its Boot from.
const bootVariable = "BERTH_SHIM_BOOT"

// Execute puts the shim at binary in the place of this process, which is a shim itself: the same process, with its
// children, and with files. It returns only if that fails, and nothing has happened then.
func Execute(binary string, b Boot, files map[string]*os.File) error {
	syscall.ForkLock.Lock() // a child that is started meanwhile would inherit all of it
	defer syscall.ForkLock.Unlock()
	numbers := []int{}
	defer func() {
		for _, n := range numbers {
			syscall.Close(n)
		}
		syscall.CloseOnExec(lockFD)
	}()
	heir := func(f *os.File) error {
		n, err := sys.DupInheritable(f)
		if err == nil {
			numbers = append(numbers, n)
		}
		return err
	}
	// The lock keeps its number, which the successor's runtime must not find free.
	if err := sys.Inheritable(lockFD); err != nil {
		return fmt.Errorf("execute shim: lock: %w", err)
	}
	b.Files = nil
	for name, f := range files {
		if err := heir(f); err != nil {
			return fmt.Errorf("execute shim: %s: %w", name, err)
		}
		b.Files = append(b.Files, name)
	}
	b.Numbers = slices.Clone(numbers)
	boot, err := bootFile(b)
	if err != nil {
		return fmt.Errorf("execute shim: %w", err)
	}
	defer boot.Close()
	if err := heir(boot); err != nil {
		return fmt.Errorf("execute shim: %w", err)
	}
	env := append(os.Environ(), bootVariable+"="+strconv.Itoa(numbers[len(numbers)-1]))
	if err := syscall.Exec(binary, append([]string{binary}, os.Args[1:]...), env); err != nil {
		return fmt.Errorf("execute shim %s: %w", binary, err)
	}
	return nil
}

// bootFile is a file without a name that holds b.
func bootFile(b Boot) (*os.File, error) {
	f, err := os.CreateTemp(b.Dir, "boot-")
	if err != nil {
		return nil, err
	}
	err = errors.Join(json.NewEncoder(f).Encode(b), os.Remove(f.Name()))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
	}
	return f, err
}

// ReadBoot is the shim's side: it reads the Boot and takes the inherited descriptors. That a predecessor has executed this
// program, rather than a starter, it learns from the environment.
func ReadBoot(in io.Reader) (Boot, map[string]*os.File, error) {
	var b Boot
	if n, err := strconv.Atoi(os.Getenv(bootVariable)); err == nil {
		os.Unsetenv(bootVariable)
		f := os.NewFile(uintptr(n), bootVariable)
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxBoot+1))
	if err == nil {
		b, err = ParseBoot(raw)
	}
	if err != nil {
		return b, nil, fmt.Errorf("read boot parameters: %w", err)
	}
	files := map[string]*os.File{}
	syscall.CloseOnExec(lockFD)
	for i, name := range b.Files {
		n := filesFD + i
		if b.Numbers != nil {
			n = b.Numbers[i]
		}
		syscall.CloseOnExec(n)
		files[name] = os.NewFile(uintptr(n), name)
	}
	return b, files, nil
}

// ParseBoot reads a Boot from JSON.
func ParseBoot(raw []byte) (Boot, error) {
	var b Boot
	if len(raw) > maxBoot {
		return b, fmt.Errorf("longer than %d bytes", maxBoot)
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, err
	}
	if !filepath.IsAbs(b.Dir) || b.Group == "" {
		return b, fmt.Errorf("dir %q and group %q: both are needed", b.Dir, b.Group)
	}
	if n := len(b.Numbers); b.Numbers != nil && n != len(b.Files) {
		return b, fmt.Errorf("%d numbers of %d files", n, len(b.Files))
	}
	return b, nil
}

// SayReady tells the starter that the shim answers, or why it does not, and ends standard output.
func SayReady(out *os.File, err error) {
	r := Ready{Pid: os.Getpid()}
	if err != nil {
		r.Error = err.Error()
	}
	if b, err := json.Marshal(r); err == nil {
		out.Write(b)
	}
	out.Close()
}
