package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// entries reads a tar: names, each with what is to be known of it.
func entries(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = fmt.Sprintf("%c %o %s%s%s", h.Typeflag, h.Mode, h.Linkname, b, h.PAXRecords["SCHILY.xattr.trusted.mine"])
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestDiff(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes device files and trusted attributes")
	}
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(in("d"), 0o755), os.Mkdir(in("new"), 0o700), os.WriteFile(in("d/f"), []byte("hi"), 0o640), os.Link(in("d/f"), in("z")),
		os.Symlink("/etc/shadow", in("d/l")), syscall.Mkfifo(in("d/p"), 0o600), syscall.Mknod(in("d/gone"), syscall.S_IFCHR, 0),
		syscall.Mknod(in("d/null"), syscall.S_IFCHR|0o666, 1<<8|3), os.Chmod(in("d/null"), 0o666))
	if err := syscall.Setxattr(in("new"), overlayOpaque, []byte("y"), 0); err != nil {
		t.Skipf("needs a filesystem with trusted attributes: %v", err)
	}
	must(t, syscall.Setxattr(in("d/f"), "trusted.mine", []byte("!"), 0))
	var b bytes.Buffer
	must(t, Diff(t.Context(), &b, dir))
	want := map[string]string{
		"d/": "5 755 ", "d/f": "0 640 hi!", "z": "1 640 d/f", "d/l": "2 777 /etc/shadow", "d/p": "6 600 ", "d/.wh.gone": "0 0 ",
		"d/null": "3 666 ", "new/": "5 700 ", "new/.wh..wh..opq": "0 0 ",
	}
	got := entries(t, &b)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %q, want %q", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Diff(ctx, io.Discard, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(in("images"), 0o700), os.WriteFile(in("images/core-1.img"), []byte("core"), 0o600), os.WriteFile(in("images/dump.log"), []byte("log"), 0o600),
		os.Symlink("/etc/passwd", in("images/parent")), os.WriteFile(in("diff"), []byte("diff"), 0o600), os.WriteFile(in("log"), []byte("one\ntwo\n"), 0o600))
	log, err := os.Open(in("log"))
	must(t, err)
	defer log.Close()
	c := Content{
		Config: Config{ID: "1", Name: "app", CheckpointedAt: time.Unix(1, 0).UTC()}, Spec: []byte("{}"), Images: in("images"), Diff: in("diff"), Log: log, LogSize: 4,
	}
	to := in("a.tar")
	must(t, os.WriteFile(to, []byte("older"), 0o644))
	must(t, CheckLocation(to), Place(t.Context(), to, func(w io.Writer) error { return Write(t.Context(), w, c) }))
	st, err := os.Stat(to)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	f, err := os.Open(to)
	must(t, err)
	defer f.Close()
	got := entries(t, f)
	for name, want := range map[string]string{
		"checkpoint/": "5 700 ", "checkpoint/core-1.img": "0 600 core", "dump.log": "0 600 log", "spec.dump": "0 600 {}", "rootfs-diff.tar": "0 600 diff",
		"container.log": "0 600 one\n",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if !strings.Contains(got["config.dump"], `"name": "app"`) || len(got) != 7 {
		t.Errorf("%q", got)
	}
}

// A place is refused before anything is done; a failure leaves what was there.
func TestPlace(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Symlink("/etc/passwd", in("link")), os.WriteFile(in("old"), []byte("old"), 0o600))
	for _, l := range []string{"", "a.tar", dir, in("link"), in("none/a.tar"), in("old/a.tar")} {
		if err := CheckLocation(l); err == nil {
			t.Errorf("%q is accepted", l)
		}
	}
	bad := errors.New("disk full")
	for _, name := range []string{"new", "old"} {
		if err := Place(t.Context(), in(name), func(w io.Writer) error { w.Write([]byte("half")); return bad }); !errors.Is(err, bad) {
			t.Errorf("%v", err)
		}
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	if b, _ := os.ReadFile(in("old")); string(b) != "old" || len(names) != 2 {
		t.Errorf("after a failure: %q, %v", b, names)
	}
}
