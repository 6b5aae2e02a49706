package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("unpacking needs root: device nodes, owners, trusted attributes")
	}
}

type ent struct {
	name, link, body string
	typ              byte
	mode             int64
	uid, gid         int
	major, minor     int64
	xattrs           map[string]string
}

var when = time.Date(2020, 2, 3, 4, 5, 6, 700000000, time.UTC)

func makeTar(t testing.TB, entries ...ent) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.typ == 0 {
			e.typ = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		h := &tar.Header{
			Name: e.name, Linkname: e.link, Typeflag: e.typ, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			Size: int64(len(e.body)), ModTime: when, Devmajor: e.major, Devminor: e.minor,
			Format: tar.FormatPAX, PAXRecords: map[string]string{},
		}
		for k, v := range e.xattrs {
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return buf.Bytes()
}

func apply(t testing.TB, entries ...ent) (string, error) {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Apply(context.Background(), dir, bytes.NewReader(makeTar(t, entries...)), Limits{})
	return dir, err
}

func mustApply(t testing.TB, entries ...ent) string {
	t.Helper()
	dir, err := apply(t, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func lstat(t testing.TB, path string) (fs.FileInfo, *syscall.Stat_t) {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi, fi.Sys().(*syscall.Stat_t)
}

func xattr(t testing.TB, dir, name string) string {
	t.Helper()
	buf := make([]byte, 256)
	n, err := syscall.Getxattr(dir, name, buf)
	if errors.Is(err, sys.ErrNoXattr) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func isWhiteout(t testing.TB, path string) bool {
	fi, st := lstat(t, path)
	return fi.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && st.Rdev == 0
}

func TestMetadata(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	long := strings.Repeat("n", 200)
	dir := mustApply(t,
		ent{name: "./", typ: tar.TypeDir, mode: 0o711},
		ent{name: "tmp/", typ: tar.TypeDir, mode: 0o1777, uid: 3, gid: 4},
		ent{name: "tmp/suid", body: "x", mode: 0o6755, uid: 1000, gid: 4000000000},
		ent{name: "tmp/cap", body: "x", mode: 0o755, xattrs: map[string]string{"security.capability": capability, "user.note": "hi", "trusted.overlay.redirect": "/etc", "user.overlay.opaque": "y"}},
		ent{name: "tmp/link", typ: tar.TypeSymlink, link: "/etc/passwd", uid: 7, gid: 8},
		ent{name: "tmp/null", typ: tar.TypeChar, mode: 0o666, major: 1, minor: 3},
		ent{name: "tmp/fifo", typ: tar.TypeFifo, mode: 0o640},
		ent{name: "tmp/hard", typ: tar.TypeLink, link: "tmp/suid"},
		ent{name: "tmp/hardlink-to-symlink", typ: tar.TypeLink, link: "/tmp/link"},
		ent{name: long + "/" + long + "/" + long, body: "deep"},
		ent{name: "implied/file", body: "y"},
	)
	check := func(name string, mode uint32, uid, gid uint32) {
		t.Helper()
		_, st := lstat(t, filepath.Join(dir, name))
		if st.Mode&0o7777 != mode || st.Uid != uid || st.Gid != gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid, mode, uid, gid)
		}
		if !strings.HasPrefix(name, "implied") && (st.Mtim.Sec != when.Unix() || st.Mtim.Nsec != 700000000) {
			t.Errorf("%s: mtime %d.%d", name, st.Mtim.Sec, st.Mtim.Nsec)
		}
	}
	check(".", 0o711, 0, 0)
	check("tmp", 0o1777, 3, 4)
	check("tmp/suid", 0o6755, 1000, 4000000000)
	check("tmp/cap", 0o755, 0, 0)
	check("tmp/link", 0o777, 7, 8)
	check("tmp/null", 0o666, 0, 0)
	check("tmp/fifo", 0o640, 0, 0)
	check("implied", 0o755, 0, 0)
	if got := xattr(t, dir+"/tmp/cap", "security.capability"); got != capability {
		t.Errorf("capability %q", got)
	}
	if got := xattr(t, dir+"/tmp/cap", "user.note"); got != "hi" {
		t.Errorf("user.note %q", got)
	}
	for _, name := range []string{"trusted.overlay.redirect", "user.overlay.opaque"} {
		if got := xattr(t, dir+"/tmp/cap", name); got != "" {
			t.Errorf("the layer set %s=%q", name, got)
		}
	}
	a, sa := lstat(t, dir+"/tmp/hard")
	b, _ := lstat(t, dir+"/tmp/suid")
	if !os.SameFile(a, b) || sa.Nlink != 2 {
		t.Error("tmp/hard is no hard link")
	}
	if fi, _ := lstat(t, dir+"/tmp/hardlink-to-symlink"); fi.Mode().Type() != fs.ModeSymlink {
		t.Errorf("a hard link to a symbolic link became %v", fi.Mode())
	}
	if _, st := lstat(t, dir+"/tmp/null"); st.Rdev != 0x103 {
		t.Errorf("device %x", st.Rdev)
	}
}

func TestWhiteouts(t *testing.T) {
	dir := mustApply(t,
		ent{name: "a/", typ: tar.TypeDir, mode: 0o755},
		ent{name: "a/.wh.gone"},
		ent{name: "b/", typ: tar.TypeDir, mode: 0o755},
		ent{name: "b/.wh..wh..opq"},
		ent{name: "b/new", body: "n"},
		ent{name: ".wh..wh.plnk", typ: tar.TypeDir, mode: 0o700},
		// A whiteout and the same name, both orders: the layer's own stays.
		ent{name: ".wh.first"}, ent{name: "first", body: "stays"},
		ent{name: "second", body: "stays"}, ent{name: ".wh.second"},
		ent{name: ".wh.dir1"}, ent{name: "dir1/", typ: tar.TypeDir, mode: 0o755}, ent{name: "dir1/f", body: "f"},
		ent{name: "dir2/", typ: tar.TypeDir, mode: 0o755}, ent{name: "dir2/f", body: "f"}, ent{name: ".wh.dir2"},
	)
	if !isWhiteout(t, dir+"/a/gone") {
		t.Error("a/gone is no whiteout")
	}
	for name, want := range map[string]string{"a": "", "b": "y", "dir1": "y", "dir2": "y"} {
		if got := xattr(t, filepath.Join(dir, name), xattrOpaque); got != want {
			t.Errorf("%s: opaque %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{"first", "second", "dir1/f", "dir2/f", "b/new"} {
		if fi, _ := lstat(t, filepath.Join(dir, name)); !fi.Mode().IsRegular() {
			t.Errorf("%s is %v", name, fi.Mode())
		}
	}
	if _, err := os.Lstat(dir + "/.wh..wh.plnk"); err == nil {
		t.Error("AUFS's book-keeping was unpacked")
	}
}

func TestReplace(t *testing.T) {
	dir := mustApply(t,
		ent{name: "x", body: "file"},
		ent{name: "x/", typ: tar.TypeDir, mode: 0o755},
		ent{name: "x/in", body: "1"},
		ent{name: "x/in", body: "second"},
		ent{name: "y/sub/f", body: "1"},
		ent{name: "y", typ: tar.TypeSymlink, link: "x"},
		ent{name: "y/through", body: "into x"},
		ent{name: "z", typ: tar.TypeSymlink, link: "x"},
		ent{name: "z/", typ: tar.TypeDir, mode: 0o755},
		ent{name: "z/own", body: "not in x"},
	)
	for name, want := range map[string]string{"x/in": "second", "x/through": "into x", "z/own": "not in x"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := os.Lstat(dir + "/x/own"); err == nil {
		t.Error("z/own went through the replaced link")
	}
}

func TestDanglingParentLink(t *testing.T) {
	dir := mustApply(t,
		ent{name: "var/run", typ: tar.TypeSymlink, link: "/run"},
		ent{name: "var/run/app/pid", body: "1"},
	)
	if b, err := os.ReadFile(dir + "/run/app/pid"); err != nil || string(b) != "1" {
		t.Errorf("%q, %v", b, err)
	}
}

// Each case is an attack; a canary beside the directory and the host's files must not change.
func TestHostile(t *testing.T) {
	needRoot(t)
	cases := map[string]struct {
		entries []ent
		err     string // what the error says, "" where the layer only harms itself
	}{
		"dot dot":           {[]ent{{name: "../canary", body: "evil"}}, `entry "../canary"`},
		"dot dot inside":    {[]ent{{name: "a/../../canary", body: "evil"}}, `entry "a/../../canary"`},
		"whiteout of ..":    {[]ent{{name: ".wh..."}}, "deletes"},
		"whiteout of dots":  {[]ent{{name: "a/.wh..."}}, "deletes"},
		"whiteout itself":   {[]ent{{name: ".wh."}}, "deletes"},
		"whiteout dot":      {[]ent{{name: ".wh.."}}, "deletes"},
		"whiteout dot dot":  {[]ent{{name: "..//.wh.canary"}}, "outside"},
		"absolute":          {[]ent{{name: "/canary", body: "evil"}}, ""},
		"symlink out":       {[]ent{{name: "l", typ: tar.TypeSymlink, link: ".."}, {name: "l/canary", body: "evil"}}, ""},
		"symlink abs out":   {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST"}, {name: "l/canary", body: "evil"}}, ""},
		"symlink chain":     {[]ent{{name: "d/", typ: tar.TypeDir}, {name: "d/l", typ: tar.TypeSymlink, link: "../.."}, {name: "m", typ: tar.TypeSymlink, link: "d/l/.."}, {name: "m/canary", body: "evil"}}, ""},
		"symlink loop":      {[]ent{{name: "l", typ: tar.TypeSymlink, link: "l"}, {name: "l/x", body: "evil"}}, "symbolic links"},
		"write over link":   {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST/canary"}, {name: "l", body: "evil"}}, ""},
		"chmod over link":   {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST"}, {name: "l", typ: tar.TypeDir, mode: 0o777}}, ""},
		"whiteout by link":  {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST"}, {name: "l/.wh.canary"}}, ""},
		"opaque by link":    {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST"}, {name: "l/.wh..wh..opq"}}, ""},
		"hard link out":     {[]ent{{name: "h", typ: tar.TypeLink, link: "../canary"}}, "outside"},
		"hard link abs":     {[]ent{{name: "h", typ: tar.TypeLink, link: "HOST/canary"}}, "does not have"},
		"hard link by link": {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST"}, {name: "h", typ: tar.TypeLink, link: "l/canary"}}, "does not have"},
		"hard link to link": {[]ent{{name: "l", typ: tar.TypeSymlink, link: "HOST/canary"}, {name: "h", typ: tar.TypeLink, link: "l"}, {name: "h", body: "evil"}}, ""},
		"hard link to dir":  {[]ent{{name: "d/", typ: tar.TypeDir}, {name: "h", typ: tar.TypeLink, link: "d"}}, "directory"},
		"file as parent":    {[]ent{{name: "f", body: "x"}, {name: "f/x", body: "evil"}}, "no directory"},
		"root as file":      {[]ent{{name: "./", body: "", typ: tar.TypeSymlink, link: "HOST"}}, "root"},
		"huge uid":          {[]ent{{name: "f", uid: 1 << 32}}, "owner"},
		"uid -1":            {[]ent{{name: "f", uid: 1<<32 - 1}}, "owner"},
		"no such device":    {[]ent{{name: "f", typ: tar.TypeChar, major: 1 << 20}}, "device"},
		"deep":              {[]ent{{name: strings.Repeat("d/", 600) + "f"}}, "deep"},
		"long component":    {[]ent{{name: strings.Repeat("n", 300)}}, "too long"},
		"unknown type":      {[]ent{{name: "f", typ: 'Z'}}, "unknown"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			host := t.TempDir()
			os.Mkdir(host+"/fs", 0o755)
			os.WriteFile(host+"/canary", []byte("alive"), 0o640)
			for i := range c.entries {
				c.entries[i].link = strings.ReplaceAll(c.entries[i].link, "HOST", host)
			}
			_, err := Apply(context.Background(), host+"/fs", bytes.NewReader(makeTar(t, c.entries...)), Limits{})
			switch {
			case c.err == "" && err != nil:
				t.Errorf("unexpected: %v", err)
			case c.err != "" && (err == nil || !errors.Is(err, ErrLayer) || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got %v, want something with %q", err, c.err)
			}
			b, rerr := os.ReadFile(host + "/canary")
			fi, st := lstat(t, host+"/canary")
			if rerr != nil || string(b) != "alive" || fi.Mode() != 0o640 || st.Nlink != 1 {
				t.Errorf("HOST PATH WAS CHANGED: %q %v %v", b, fi.Mode(), rerr)
			}
			if names, _ := os.ReadDir(host); len(names) != 2 {
				t.Errorf("HOST PATH WAS CHANGED: %v", names)
			}
			if fi, _ := lstat(t, host); fi.Mode().Perm() == 0o777 {
				t.Error("HOST PATH WAS CHANGED: mode of the directory")
			}
		})
	}
}

func TestLimits(t *testing.T) {
	needRoot(t)
	big := makeTar(t, ent{name: "a", body: strings.Repeat("0", 5000)}, ent{name: "b", body: strings.Repeat("0", 5000)})
	for name, l := range map[string]Limits{"bytes": {Bytes: 8192}, "entries": {Entries: 1}} {
		dir := t.TempDir()
		if _, err := Apply(context.Background(), dir, bytes.NewReader(big), l); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTruncatedAndGarbage(t *testing.T) {
	needRoot(t)
	whole := makeTar(t, ent{name: "a", body: strings.Repeat("0", 5000)})
	for name, b := range map[string][]byte{"cut": whole[:3000], "garbage": bytes.Repeat([]byte("garbage"), 1000)} {
		if _, err := Apply(context.Background(), t.TempDir(), bytes.NewReader(b), Limits{}); !errors.Is(err, ErrLayer) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Apply(ctx, t.TempDir(), bytes.NewReader(makeTar(t, ent{name: "a"})), Limits{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func FuzzApply(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("unpacking needs root")
	}
	f.Add(makeTar(f, ent{name: "../x"}, ent{name: "l", typ: tar.TypeSymlink, link: "/"}, ent{name: "l/y"}))
	f.Add(makeTar(f, ent{name: "a/.wh.b"}, ent{name: "a/b/", typ: tar.TypeDir}, ent{name: "h", typ: tar.TypeLink, link: "a/b"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		host := t.TempDir()
		os.Mkdir(host+"/fs", 0o755)
		os.WriteFile(host+"/canary", []byte("alive"), 0o640)
		Apply(context.Background(), host+"/fs", bytes.NewReader(b), Limits{Bytes: 1 << 20, Entries: 100, Depth: 16})
		got, err := os.ReadFile(host + "/canary")
		names, _ := os.ReadDir(host)
		if err != nil || string(got) != "alive" || len(names) != 2 {
			t.Fatalf("HOST PATH WAS CHANGED: %q %v %v", got, err, names)
		}
	})
}
