package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/sys"
)

// prepareEnv checks an environment; of several variables of one name the last counts, and an empty HOME
// counts as none.
func prepareEnv(env []string) ([]string, error) {
	out := make([]string, 0, len(env))
	seen := make(map[string]bool, len(env))
	for _, kv := range slices.Backward(env) {
		name, value, ok := strings.Cut(kv, "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("invalid environment variable %q: missing '='", kv)
		case name == "":
			return nil, errors.New("invalid environment variable: name cannot be empty")
		case strings.ContainsRune(kv, 0):
			return nil, fmt.Errorf("invalid environment variable %q: contains nul byte (\\x00)", name)
		case seen[name], name == "HOME" && value == "":
			continue
		}
		seen[name] = true
		out = append(out, kv)
	}
	slices.Reverse(out)
	return out, nil
}

// addHome sets HOME as login would, from the container's own passwd file. pid is a process that sees the
// container's root.
func addHome(p *specs.Process, pid int) {
	if slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }) {
		return
	}
	p.Env = append(p.Env, "HOME="+homeOf(fmt.Sprintf("/proc/%d/root", pid), p.User.UID))
}

// homeOf looks a user up in root's passwd file, which the image has written: whatever is wrong with it,
// the answer is "/".
func homeOf(root string, uid uint32) string {
	const nowhere = "/"
	dir, err := sys.OpenFolder(root)
	if err != nil {
		return nowhere
	}
	defer dir.Close()
	etc, err := dir.InRoot("etc")
	if err != nil {
		return nowhere
	}
	defer etc.Close()
	f, err := etc.OpenRegular("passwd")
	if err != nil {
		return nowhere
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 6 || fields[2] != strconv.FormatUint(uint64(uid), 10) {
			continue
		}
		if strings.HasPrefix(fields[5], "/") && !strings.ContainsRune(fields[5], 0) {
			return fields[5]
		}
		return nowhere
	}
	return nowhere
}

// maxPasswd is as much of a passwd file as is read.
const maxPasswd = 1 << 20

// listenFDs is how many sockets systemd has given to this very process (sd_listen_fds(3)).
func listenFDs() int {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > maxFiles {
		return 0
	}
	return n
}

func addListenFDs(p *specs.Process) {
	if n := listenFDs(); n > 0 {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
}
