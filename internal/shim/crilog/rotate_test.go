package crilog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files are those of the log, the oldest first.
func (f *fixture) files() []string {
	f.t.Helper()
	rotated, err := filepath.Glob(f.log.Path() + ".*")
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(rotated)
	return append(rotated, f.log.Path())
}

func TestRotation(t *testing.T) {
	f := newFixture(t)
	f.log.rotation = Rotation{Size: 1000, Files: 3}
	s := f.follow(nil)
	start(t, s)
	say := func(from, to int) {
		for i := from; i < to; i++ {
			fmt.Fprintf(f.w, "line %d\n", i)
			s.Drain() // a rotation is between two appends
		}
	}
	say(0, 200)
	files := f.files()
	if len(files) != 3 {
		t.Fatalf("files %v", files)
	}
	var got []string
	for _, file := range files {
		st, err := os.Stat(file)
		if err != nil || st.Size() > 1000 {
			t.Errorf("%s: %d bytes, %v", file, st.Size(), err)
		}
		got = append(got, texts(t, file)...)
	}
	for i, g := range got { // the latest, each once and whole
		if want := fmt.Sprintf("F line %d\n", 200-len(got)+i); g != want {
			t.Fatalf("record %d is %q, want %q", i, g, want)
		}
	}

	// What a kubelet has renamed is not rotated, before and after it has said so, and not counted.
	theirs := f.log.Path() + ".20261121-113800"
	if err := os.Rename(f.log.Path(), theirs); err != nil {
		t.Fatal(err)
	}
	before := len(texts(t, theirs))
	say(200, 300)
	if got := len(texts(t, theirs)); got != before+100 {
		t.Errorf("%d records in the file that was renamed, want %d", got, before+100)
	}
	if err := f.log.Reopen(); err != nil {
		t.Fatal(err)
	}
	say(300, 400)
	if _, err := os.Stat(theirs); err != nil || len(f.files()) != 4 {
		t.Errorf("%v, %v", f.files(), err)
	}
	if got := texts(t, f.log.Path()); got[len(got)-1] != "F line 399\n" {
		t.Errorf("the last record is %q", got[len(got)-1])
	}
	s.Close()
}

// A log that can't be rotated grows on.
func TestRotationImpossible(t *testing.T) {
	f := newFixture(t)
	f.log.rotation = Rotation{Size: 100, Files: 2}
	s := f.follow(nil)
	start(t, s)
	f.w.WriteString(strings.Repeat("x", 90) + "\n")
	s.Drain()
	if err := os.Rename(f.dir, f.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	f.w.WriteString("more\n")
	s.Drain()
	if err := os.Rename(f.dir+"-away", f.dir); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, f.log.Path()); len(got) != 2 || got[1] != "F more\n" {
		t.Errorf("%q", got)
	}
	s.Close()
}
