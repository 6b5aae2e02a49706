package runtime

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxPasswd is the largest passwd or group file of an image that is read.
const maxPasswd = 1 << 20

// identity is who a process runs as.
type identity struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// account is a line of passwd.
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// resolveUser turns what the pod and the image say into numbers, with the image's passwd and group
// files, which read returns. The pod's user goes before the image's; the group of the image's "user:group"
// counts only together with its user. A number that no file knows is taken as it is, with group 0.
func resolveUser(sec Security, imageUser string, read func(path string) ([]byte, error)) (identity, error) {
	user, group, _ := strings.Cut(imageUser, ":")
	switch {
	case sec.RunAsUser != nil:
		user, group = strconv.FormatInt(*sec.RunAsUser, 10), ""
	case sec.RunAsUsername != "":
		user, group = sec.RunAsUsername, ""
	}
	if sec.RunAsGroup != nil {
		group = strconv.FormatInt(*sec.RunAsGroup, 10)
	}
	passwd, err := readAccounts(read)
	if err != nil {
		return identity{}, err
	}
	groups, err := readOptional(read, "/etc/group")
	if err != nil {
		return identity{}, err
	}
	acc, err := findAccount(passwd, user)
	if err != nil {
		return identity{}, err
	}
	id := identity{uid: acc.uid, gid: acc.gid, home: firstOf(acc.home, "/")}
	if group != "" {
		if id.gid, err = findGroup(groups, group); err != nil {
			return identity{}, err
		}
	}
	if !sec.StrictGroups && acc.name != "" {
		id.groups = memberships(groups, acc.name)
	}
	for _, g := range sec.SupplementalGroups {
		n, err := checkID(g)
		if err != nil {
			return identity{}, fmt.Errorf("supplemental group: %w", err)
		}
		id.groups = append(id.groups, n)
	}
	if !slices.Contains(id.groups, id.gid) {
		id.groups = append([]uint32{id.gid}, id.groups...)
	}
	return id, nil
}

func findAccount(passwd []account, user string) (account, error) {
	if user == "" {
		user = "0"
	}
	n, numErr := parseID(user)
	for _, a := range passwd {
		if (numErr == nil && a.uid == n) || (numErr != nil && a.name == user) {
			return a, nil
		}
	}
	if numErr == nil {
		return account{uid: n}, nil
	}
	if errors.Is(numErr, strconv.ErrRange) {
		return account{}, fmt.Errorf("user %q: a user id is a number from 0 to %d: %w", user, math.MaxInt32, errdefs.ErrInvalidArgument)
	}
	return account{}, fmt.Errorf("user %q is not in the image's /etc/passwd: %w", user, errdefs.ErrInvalidArgument)
}

func findGroup(file []byte, group string) (uint32, error) {
	n, err := parseID(group)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("group %q: a group id is a number from 0 to %d: %w", group, math.MaxInt32, errdefs.ErrInvalidArgument)
	}
	var found *uint32
	eachLine(file, func(f []string) {
		if n, err := parseID(f[2]); err == nil && f[0] == group && found == nil {
			found = &n
		}
	})
	if found == nil {
		return 0, fmt.Errorf("group %q is not in the image's /etc/group: %w", group, errdefs.ErrInvalidArgument)
	}
	return *found, nil
}

func memberships(file []byte, user string) []uint32 {
	var out []uint32
	eachLine(file, func(f []string) {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			return
		}
		if n, err := parseID(f[2]); err == nil && !slices.Contains(out, n) {
			out = append(out, n)
		}
	})
	return out
}

func readAccounts(read func(string) ([]byte, error)) ([]account, error) {
	b, err := readOptional(read, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	var out []account
	eachLine(b, func(f []string) {
		if len(f) < 6 {
			return
		}
		uid, uerr := parseID(f[2])
		gid, gerr := parseID(f[3])
		if uerr == nil && gerr == nil {
			out = append(out, account{name: f[0], uid: uid, gid: gid, home: f[5]})
		}
	})
	return out, nil
}

// readOptional reads a file that an image need not have.
func readOptional(read func(string) ([]byte, error), path string) ([]byte, error) {
	b, err := read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", path, err)
	}
	return b, nil
}

// eachLine calls f with the fields of every line that has at least three.
func eachLine(b []byte, f func(fields []string)) {
	s := bufio.NewScanner(bytes.NewReader(b))
	s.Buffer(nil, maxPasswd)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if fields := strings.Split(line, ":"); len(fields) >= 3 {
			f(fields)
		}
	}
}

// parseID reads a uid or gid. What does not fit into 31 bits is an error that wraps strconv.ErrRange,
// never a number that wraps around to root.
func parseID(s string) (uint32, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, err
	}
	return checkID(n)
}

func checkID(n int64) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("id %d: %w: %w", n, strconv.ErrRange, errdefs.ErrInvalidArgument)
	}
	return uint32(n), nil
}
