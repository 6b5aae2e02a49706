package resclass

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/intel/goresctrl/pkg/blockio"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func classes(t *testing.T, text string) (*Classes, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "blockio.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file, "")
}

func TestBlockIO(t *testing.T) {
	c, err := classes(t, "Classes:\n  slow:\n  - Weight: 80\n  fast:\n  - Weight: 800\n")
	if err != nil {
		t.Fatal(err)
	}
	pod := map[string]string{
		blockio.BlockioPodAnnotation: "fast", blockio.BlockioPodAnnotationContainerPrefix + "db": "slow",
	}
	for name, x := range map[string]struct {
		own    map[string]string
		weight uint16
	}{
		"app": {nil, 800}, "db": {nil, 80}, "own": {map[string]string{blockio.BlockioContainerAnnotation: "slow"}, 80},
	} {
		spec := &specs.Spec{Linux: &specs.Linux{}}
		if err := c.Apply(spec, name, x.own, pod); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if w := spec.Linux.Resources.BlockIO.Weight; w == nil || *w != x.weight {
			t.Errorf("%s: weight %v, want %d", name, w, x.weight)
		}
	}
	spec := &specs.Spec{Linux: &specs.Linux{}}
	if err := c.Apply(spec, "app", nil, map[string]string{"a": "b"}); err != nil || spec.Linux.Resources != nil {
		t.Errorf("without a class: %v, %v", spec.Linux.Resources, err)
	}
	for what, x := range map[string]struct {
		c     *Classes
		pod   map[string]string
		names string
	}{
		"unknown class":     {c, map[string]string{blockio.BlockioPodAnnotation: "none"}, "none"},
		"no classes":        {nil, pod, "fast"},
		"no classes of RDT": {c, map[string]string{"rdt.resources.beta.kubernetes.io/pod": "gold"}, "gold"},
	} {
		if err := x.c.Apply(&specs.Spec{Linux: &specs.Linux{}}, "app", nil, x.pod); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), x.names) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestBadFiles(t *testing.T) {
	if _, err := classes(t, "Classes: 7"); err == nil {
		t.Error("a file that holds no classes is taken")
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none"), ""); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat("/sys/fs/resctrl/info"); err != nil {
		if _, err := Load("", "/dev/null"); err == nil || !strings.Contains(err.Error(), "resctrl") {
			t.Errorf("no resctrl: %v", err)
		}
	}
}
