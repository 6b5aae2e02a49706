package node

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func answers(path string) bool {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestSocketIsItsOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	path := filepath.Join(dir, "cri.sock")
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("socket: %v %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info.Mode(), err)
	}
	if l.Addr().String() != path {
		t.Errorf("it calls itself %s", l.Addr())
	}
	if !answers(path) {
		t.Error("it does not answer")
	}
	if _, err := listenUnix(path); err == nil || !strings.Contains(err.Error(), "another program answers") {
		t.Errorf("a second one: %v", err)
	}
	l.remove()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	old, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	old.Close() // without remove: the name stays
	if err := os.Mkdir(filepath.Join(filepath.Dir(path), ".cri.sock.new"), 0o700); err != nil {
		t.Fatal(err) // as if it had died while it made the socket
	}
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.remove()
	if !answers(path) {
		t.Error("it does not answer")
	}
}

func TestSocketPlacesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                               "is no socket",
		filepath.Join(file, "cri.sock"):    "is no folder",
		filepath.Join(open, "cri.sock"):    "mode 0777",
		"/tmp/" + strings.Repeat("x", 200): "too long",
	} {
		l, err := listenUnix(path)
		if err == nil {
			l.remove()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was touched")
	}
}

// A path whose private folder would be too long for a socket works all the same.
func TestSocketWithTheLongestPath(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "bs-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, strings.Repeat("x", maxSocket-len(dir)-1))
	l, err := listenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.remove()
	if !answers(path) {
		t.Error("it does not answer")
	}
}
