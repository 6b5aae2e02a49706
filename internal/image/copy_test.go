package image

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

// Where there is no overlayfs a container gets a copy: what is deleted is gone, what an image is not to
// change outside stays.
func TestCopies(t *testing.T) {
	ctx, root := context.Background(), t.TempDir()
	noOverlay := func(s *Store) *Store { s.overlay = func() error { return ErrNoOverlay }; return s }
	s := noOverlay(openAt(t, root, nil))
	outside := t.TempDir()
	img := put(t, s, build(t, machine(),
		layer(t, file{name: "etc/", typ: tar.TypeDir}, file{name: "etc/passwd", body: "root"}, file{name: "gone", body: "1"},
			file{name: "dir/", typ: tar.TypeDir}, file{name: "dir/below", body: "2"}, file{name: "run/", typ: tar.TypeDir},
			file{name: "var/", typ: tar.TypeDir}, file{name: "var/run", typ: tar.TypeSymlink, link: "/run"},
			file{name: "out", typ: tar.TypeSymlink, link: outside}, file{name: "was-dir/", typ: tar.TypeDir}, file{name: "was-dir/x", body: "3"}),
		layer(t, file{name: "dir/above", body: "4"}, file{name: "dir/.wh..wh..opq"}, file{name: "gone", body: "new"}, file{name: ".wh.gone"},
			file{name: "var/run/pid", body: "5"}, file{name: "out/.wh.canary"}, file{name: "was-dir", body: "6"}, file{name: ".wh.never"}),
		layer(t, file{name: "hard", typ: tar.TypeReg, body: "7"}, file{name: "link", typ: tar.TypeLink, link: "hard"}, file{name: "etc/.wh.passwd"}),
	))
	if err := os.WriteFile(outside+"/canary", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"dir", "dir/above", "etc", "gone", "hard", "link", "out", "run", "run/pid", "var", "var/run", "was-dir"}
	var upper string
	for range 2 {
		r, err := s.Prepare(ctx, "c", img)
		if err != nil {
			t.Fatal(err)
		}
		if r.Mounts[0].Type != "bind" || r.Mounts[0].Source != r.Upper || !reflect.DeepEqual(r.Lower, []string{r.Upper}) {
			t.Errorf("%+v", r)
		}
		upper = r.Upper
		if got := tree(t, upper); !reflect.DeepEqual(got, want) {
			t.Errorf("%q", got)
		}
	}
	if _, err := os.Stat(outside + "/canary"); err != nil {
		t.Error("THE HOST WAS CHANGED")
	}
	if err := os.WriteFile(filepath.Join(upper, "written"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = noOverlay(openAt(t, root, nil)) // the same boot: a container's files are still there
	defer s.Close()
	if r, err := s.Prepare(ctx, "c", img); err != nil || !exists(r.Upper+"/written") {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.RemoveRootfs(ctx, "c"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(ctx, img.ID.String()); err != nil {
		t.Error(err)
	}
	checkEmpty(t, s)
}
