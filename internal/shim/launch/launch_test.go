package launch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// script makes a program that stands for a shim.
func script(t *testing.T, body string) (binary, dir string) {
	t.Helper()
	dir = t.TempDir()
	binary = filepath.Join(dir, "shim")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return binary, dir
}

func TestStart(t *testing.T) {
	t.Setenv("SECRET", "x")
	binary, dir := script(t, `cat >"`+t.TempDir()+`/boot"; env | grep -q SECRET && exit 1; echo '{"pid":1}'; exec >&-; sleep 0.05`)
	cmd, err := Start(context.Background(), binary, Boot{Dir: dir, Group: "g"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
}

func TestStartFailures(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"ends":        {"echo no good; exit 1", "ended before it was ready"},
		"says why":    {`echo '{"error":"the disk is full"}'`, "the disk is full"},
		"never ready": {"exec sleep 1000", "does not get ready"},
	} {
		t.Run(name, func(t *testing.T) {
			binary, dir := script(t, c.body)
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			if _, err := Start(ctx, binary, Boot{Dir: dir, Group: "g"}, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := Start(context.Background(), "/none", Boot{Dir: t.TempDir(), Group: "g"}, nil); err == nil {
		t.Error("a missing binary started")
	}
}

func TestReadBoot(t *testing.T) {
	b, files, err := ReadBoot(strings.NewReader(`{"dir":"/d","group":"g","generation":2}`))
	if err != nil || b.Generation != 2 || len(files) != 0 {
		t.Errorf("%v, %v, %v", b, files, err)
	}
	for _, bad := range []string{"", "{", `{}`, `{"dir":"d","group":"g"}`, strings.Repeat(" ", maxBoot+1)} {
		if _, _, err := ReadBoot(strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q passed", bad)
		}
	}
}

func FuzzParseBoot(f *testing.F) {
	f.Add([]byte(`{"dir":"/d","group":"g","files":["a"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if boot, err := ParseBoot(b); err == nil && (boot.Group == "" || boot.Dir == "") {
			t.Fatalf("%+v", boot)
		}
	})
}
