package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/engine"
)

// All containers are paused before the first is written, and all run again before the call returns, whatever went wrong on
// the way; then nothing is left of it.
func TestPodCheckpointIsOneCut(t *testing.T) {
	for fails, want := range map[string]string{
		"": "pause pause checkpoint checkpoint resume resume", "pause": "pause resume",
		"checkpoint": "pause pause checkpoint resume resume", "resume": "pause pause checkpoint checkpoint resume resume",
	} {
		t.Run("fails: "+fails, func(t *testing.T) {
			r, w := fake(t)
			r.cfg.CRIU, r.cfg.ScratchDir = filepath.Join(t.TempDir(), "criu"), t.TempDir()
			if err := os.WriteFile(r.cfg.CRIU, []byte("#!/bin/sh\necho Version: 4.1.1\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			spec := pod("a")
			spec.Namespaces.IPC = NamespaceNode
			sb, err := r.RunSandbox(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, name := range []string{"web", "db"} {
				c := web()
				c.Name = name
				id, err := r.CreateContainer(t.Context(), sb, c)
				if err == nil {
					err = r.StartContainer(t.Context(), id)
				}
				if err != nil {
					t.Fatal(err)
				}
				r.container(id).rootfs = []engine.Mount{{Options: []string{"upperdir=" + t.TempDir()}}}
				ids = append(ids, id)
			}
			broken := errors.New("broken")
			w.set(func() {
				w.calls = nil
				if fails != "" {
					w.fail = map[string]error{fails: broken}
				}
			})
			dir := t.TempDir()
			err = r.CheckpointPod(t.Context(), sb, dir, ids)
			if fails == "" && err != nil || fails != "" && !errors.Is(err, broken) {
				t.Errorf("%v", err)
			}
			w.set(func() {
				got := slices.DeleteFunc(w.calls, func(c string) bool { return !strings.Contains(want, c) })
				if s := strings.Join(got, " "); s != want {
					t.Errorf("%s, want %s", s, want)
				}
			})
			left, _ := os.ReadDir(dir)
			scratch, _ := os.ReadDir(r.cfg.ScratchDir)
			if (len(left) == 0) != (fails != "") || len(scratch) > 0 {
				t.Errorf("in its folder: %v, left in the scratch folder: %v", left, scratch)
			}
		})
	}
}
