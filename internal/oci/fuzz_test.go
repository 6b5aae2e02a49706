package oci

import (
	"os"
	"strings"
	"testing"
)

// Whatever the arguments are, reading them ends with arguments or with an error.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"ID", "-d\x00--tty\x00ID\x00sh\x00-c\x00x", "--env=A\x00-e\x00B=\x00--\x00ID", "-u\x001:2\x00ID\x00x", "--memory\x0064m\x00--cpu-quota=-1\x00ID"} {
		f.Add(s)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer null.Close()
	f.Fuzz(func(t *testing.T, s string) {
		a := &app{Invocation: Invocation{Name: "fuzz", In: null, Out: null, Err: null}}
		args := strings.Split(s, "\x00")
		var x execution
		fs := a.flags("exec")
		x.register(fs)
		if rest, err := a.arguments(fs, args, false, 1, -1); err == nil {
			if len(rest) == 0 {
				t.Error("no argument, and no error")
			}
			own := exampleSpec().Process
			x.process = "" // reads a file
			if p, err := x.specify(own, rest[1:]); err == nil && checkProcess(p) != nil {
				t.Errorf("a bad process from %q", args)
			}
		}
		l := limits{values: map[string]*string{}}
		fs = a.flags("update")
		for _, lf := range limitFlags {
			l.values[lf.name] = fs.String(lf.name, "", "")
		}
		if _, err := fs.parse(args, true); err == nil {
			l.parse()
		}
		_, _ = parseSignal(s)
		if checkID(s) == nil && (strings.ContainsAny(s, "/\x00\n") || s == "." || s == "..") {
			t.Errorf("id %q is let through", s)
		}
	})
}

// A passwd file of any content gives a home that is a path.
func FuzzHome(f *testing.F) {
	f.Add([]byte("root:x:0:0::/root:/bin/sh\n"), uint32(0))
	f.Add([]byte(":::::\n\n0:0:0:0:0:0"), uint32(0))
	f.Fuzz(func(t *testing.T, passwd []byte, uid uint32) {
		dir := t.TempDir()
		if err := os.Mkdir(dir+"/etc", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/etc/passwd", passwd, 0o644); err != nil {
			t.Fatal(err)
		}
		if home := homeOf(dir, uid); !strings.HasPrefix(home, "/") || strings.ContainsRune(home, 0) {
			t.Errorf("home %q", home)
		}
	})
}
