package criu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// program writes a script that stands for CRIU.
func program(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	for body, want := range map[string]string{
		"echo Version: 4.1.1\necho GitID: 0": "4.1.1",
		"echo Version: 12":                   "12",
		"echo Version: 3.17.1":               "",
		"echo no":                            "",
		"echo Version: new":                  "",
		"exit 1":                             "",
	} {
		tool, err := Find(t.Context(), program(t, body))
		if tool.Version != want || (err == nil) != (want != "") {
			t.Errorf("%q: %+v, %v", body, tool, err)
		}
		if err != nil && (!errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "CRIU 4 or newer")) {
			t.Errorf("%q: %v does not say what to do", body, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Find(t.Context(), ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("none in PATH: %v", err)
	}
}

// A CRIU that fails is quoted; what it wrote beside its images is nobody's.
func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	tool := Tool{Version: "4.0", Path: program(t, `
while [ $# -gt 0 ]; do case $1 in --images-dir) dir=$2;; esac; shift; done
echo '(00.1) Error (criu/util.c:1): Cannot setup RLIMIT_NOFILE for self: no' | sed 's/Cannot/Can not/' > $dir/dump.log
echo '(00.2) Error (criu/x.c:2): a thing is odd' >> $dir/dump.log
exit 3`)}
	err := tool.Dump(t.Context(), Dump{Pid: os.Getpid(), Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "a thing is odd") || strings.Contains(err.Error(), "RLIMIT") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob(dir + "/.output-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	tool.Path = program(t, "sleep 0.3; exit 1")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := tool.Dump(ctx, Dump{Pid: os.Getpid(), Dir: t.TempDir()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a late one: %v", err)
	}
}

const mountinfo = `207 143 0:39 / / rw,relatime - overlay overlay rw,upperdir=/u
209 222 0:29 /pod/c /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu
217 207 0:43 / /proc rw - proc proc rw
218 207 0:44 / /dev rw,nosuid shared:3 - tmpfs tmpfs rw,size=65536k
219 218 0:45 / /dev/pts rw - devpts devpts rw
220 218 0:45 /0 /dev/console rw - devpts devpts rw
223 218 0:40 / /dev/shm rw - tmpfs shm rw
224 207 254:0 /x /my\040data rw - ext4 /dev/vda rw
228 217 0:6 /null /proc/keys rw - devtmpfs devtmpfs rw
232 217 0:43 /bus /proc/bus ro - proc proc rw
`

func TestExternalMounts(t *testing.T) {
	mounts, err := parseMounts(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range []string{"/sys/fs/cgroup/cpu", "/dev/console", "/dev/shm", "/my data", "/proc/keys"} {
		want = append(want, "mnt["+m+"]:"+m)
	}
	if got := externalMounts(mounts, []string{"/dev/shm"}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestFreezerDir(t *testing.T) {
	v1 := []mount{{root: "/", target: "/sys/fs/cgroup/freezer", fstype: "cgroup", options: "rw,freezer"}, {root: "/", target: "/sys/fs/cgroup/unified", fstype: "cgroup2"}}
	for _, c := range []struct {
		cgroup, want string
		mounts       []mount
	}{
		{"6:freezer:/a/b\n0::/a/b\n", "/sys/fs/cgroup/freezer/a/b", v1},
		{"0::/a/b\n", "/sys/fs/cgroup/a/b", []mount{{root: "/", target: "/sys/fs/cgroup", fstype: "cgroup2"}}},
		{"6:freezer:/a/b\n", "/f/b", []mount{{root: "/a", target: "/f", fstype: "cgroup", options: "freezer"}}},
		{"6:freezer:/z\n", "", []mount{{root: "/a", target: "/f", fstype: "cgroup", options: "freezer"}}},
		{"6:cpu:/z\n", "", v1},
	} {
		if got := freezerDir(c.cgroup, c.mounts); got != c.want {
			t.Errorf("%q: %q, want %q", c.cgroup, got, c.want)
		}
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(mountinfo)
	f.Add("1 2 3 4 5 6 - \n")
	f.Fuzz(func(t *testing.T, s string) {
		mounts, err := parseMounts(s)
		if err == nil {
			externalMounts(mounts, nil)
			freezerDir(s, mounts)
		}
	})
}
