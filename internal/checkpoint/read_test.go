package checkpoint

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

type file struct {
	name string
	kind byte
	link string
	data string
}

const someConfig = `{"id":"1","name":"app","rootfsImageRef":"sha256:1"}`

// tarOf writes an archive.
func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Size: int64(len(f.data)), Mode: 0o600}
		if f.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpackBytes(t testing.TB, b []byte, l Limits) (*Unpacked, string, error) {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to := filepath.Join(dir, "to")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	u, err := Unpack(t.Context(), f, to, l)
	return u, to, err
}

func TestUnpack(t *testing.T) {
	whole := []file{
		{name: "./config.dump", data: someConfig}, {name: "spec.dump", data: "{}"}, {name: "checkpoint/", kind: tar.TypeDir},
		{name: "checkpoint/core-1.img", data: "core"}, {name: "rootfs-diff.tar", data: "diff"},
		{name: "container.log", kind: tar.TypeSymlink, link: "/etc/shadow"}, {name: "../../x", data: "out"}, {name: "/etc/y", data: "out"},
		{name: "checkpoint/../../z", data: "out"}, {name: "bind.mounts", data: "[]"},
	}
	u, dir, err := unpackBytes(t, tarOf(t, whole...), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if u.Config.Name != "app" || string(u.Spec) != "{}" || u.Diff != filepath.Join(dir, DiffFile) {
		t.Errorf("%+v", u)
	}
	var names []string
	filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, p[len(dir)+1:])
		}
		return nil
	})
	if len(names) != 4 {
		t.Errorf("unpacked: %v", names)
	}
	for what, c := range map[string]struct {
		files  []file
		limits Limits
	}{
		"link as image":    {append(whole[:4:4], file{name: "checkpoint/pages-1.img", kind: tar.TypeSymlink, link: "/etc/shadow"}), Limits{}},
		"hard link":        {append(whole[:4:4], file{name: "rootfs-diff.tar", kind: tar.TypeLink, link: "/etc/shadow"}), Limits{}},
		"device":           {append(whole[:2:2], file{name: "checkpoint/a", kind: tar.TypeChar}), Limits{}},
		"name of an image": {append(whole[:2:2], file{name: "checkpoint/-rf", data: "x"}), Limits{}},
		"twice":            {append(whole[:2:2], whole[0]), Limits{}},
		"no config":        {whole[1:], Limits{}},
		"no spec":          {append(whole[:1:1], whole[2:]...), Limits{}},
		"bad config":       {append([]file{{name: "config.dump", data: "[]"}}, whole[1:]...), Limits{}},
		"many entries":     {whole, Limits{Entries: 3}},
		"many bytes":       {whole, Limits{Bytes: 60}},
		"large config":     {whole, Limits{Meta: 5}},
	} {
		if _, _, err := unpackBytes(t, tarOf(t, c.files...), c.limits); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", what, err)
		}
	}
	b := tarOf(t, whole...)
	if _, _, err := unpackBytes(t, b[:1100], Limits{}); !errors.Is(err, ErrArchive) {
		t.Errorf("cut off: %v", err)
	}
}

// The layer of an image is a folder.
func TestUnpackFolder(t *testing.T) {
	layer, to := t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(layer, name) }
	must(t, os.Mkdir(in("checkpoint"), 0o755), os.WriteFile(in("checkpoint/core-1.img"), []byte("core"), 0o644),
		os.WriteFile(in("config.dump"), []byte(someConfig), 0o644), os.WriteFile(in("spec.dump"), []byte("{}"), 0o644), os.Symlink("/etc", in("other")))
	unpack := func(to string) error {
		f, err := Open(layer)
		must(t, err)
		defer f.Close()
		_, err = Unpack(t.Context(), f, to, Limits{})
		return err
	}
	if err := unpack(to); err != nil {
		t.Fatal(err)
	}
	must(t, os.Symlink("/etc/shadow", in("rootfs-diff.tar")))
	if err := unpack(t.TempDir()); err == nil {
		t.Error("a link was followed")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, file{name: "config.dump", data: someConfig}, file{name: "spec.dump", data: "{}"}, file{name: "checkpoint/a.img", data: "1"}))
	f.Add(tarOf(f, file{name: "checkpoint/../../a", kind: tar.TypeSymlink, link: "/etc"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, dir, _ := unpackBytes(t, b, Limits{Bytes: 1 << 20})
		if names, _ := os.ReadDir(filepath.Dir(dir)); len(names) != 2 {
			t.Errorf("left outside: %v", names)
		}
	})
}

func TestPodFile(t *testing.T) {
	dir := t.TempDir()
	want := Pod{Name: "web", Containers: []PodContainer{{"a", ArchiveName(0)}, {"b", ArchiveName(1)}}, Shm: true}
	must(t, CheckEmpty(dir), WritePod(t.Context(), dir, want))
	got, err := ReadPod(dir)
	if err != nil || got.Name != "web" || len(got.Containers) != 2 || !got.Shm {
		t.Errorf("%+v, %v", got, err)
	}
	if CheckEmpty(dir) == nil || CheckEmpty("relative") == nil || CheckEmpty(filepath.Join(dir, PodFile)) == nil {
		t.Error("a folder that can't be used is taken")
	}
	for _, bad := range []string{
		`{`, `{"version":2}`, `{"version":1}`, `{"version":1,"containers":[{"name":"a","archive":"../container-0.tar"}]}`,
		`{"version":1,"containers":[{"name":"a","archive":"container-0.tar"},{"name":"a","archive":"container-1.tar"}]}`,
	} {
		if _, err := parsePod([]byte(bad)); !errors.Is(err, ErrArchive) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzPodFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"containers":[{"name":"a","archive":"container-0.tar"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) { parsePod(b) })
}
