package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The rules of .depguard.yml are tried on a module that breaks each of them once: a rule that nobody
// can break is none.
func TestLintRulesBite(t *testing.T) {
	depguard, err := filepath.Abs("../.cache/bin/depguard")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(depguard); err != nil {
		t.Skip("needs depguard, which make lint installs")
	}
	const module = "github.com/11f9778f/berth"
	crimes := map[string]string{ // by file: what it must not import
		"internal/kubelet/x.go":     module + "/internal/runtime",
		"internal/cri/x.go":         module + "/internal/kubelet",
		"internal/runtime/x.go":     module + "/internal/cri",
		"internal/image/x.go":       module + "/internal/network",
		"internal/network/x.go":     module + "/internal/image",
		"internal/shim/client/x.go": module + "/internal/runtime",
		"internal/shim/server/x.go": module + "/internal/image",
		"internal/engine/x.go":      module + "/internal/shim/client",
		"internal/oci/x.go":         module + "/internal/shim/client",
		"internal/config/x.go":      module + "/internal/node",
		"internal/telemetry/x.go":   module + "/internal/runtime",
		"internal/sys/x.go":         module + "/internal/engine",
		"internal/demo/x.go":        "golang.org/x/sys/unix",
	}
	dir := t.TempDir()
	write := func(path, body string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	rules, err := os.ReadFile("../.depguard.yml")
	if err != nil {
		t.Fatal(err)
	}
	write(".depguard.yml", string(rules))
	write("go.mod", "module "+module+"\n\ngo 1.26\n\nrequire golang.org/x/sys v0.0.0\n\nreplace golang.org/x/sys => ./stub\n")
	write("stub/go.mod", "module golang.org/x/sys\n\ngo 1.26\n")
	write("stub/unix/unix.go", "package unix\n")
	for file, imported := range crimes { // each import cycle would hide the crime: one module a crime
		t.Run(file, func(t *testing.T) {
			for other := range crimes {
				pkg := filepath.Base(filepath.Dir(other))
				body := "package " + pkg + "\n"
				if other == file {
					body += "\nimport _ \"" + imported + "\"\n"
				}
				write(other, body)
			}
			cmd := exec.Command(depguard, "./...")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), imported) {
				t.Errorf("%s may import %s: %v\n%s", file, imported, err, out)
			}
		})
	}
}
