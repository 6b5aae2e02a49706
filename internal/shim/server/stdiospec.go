package server

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api"
)

// Schemes of a process's output that containerd knows, beside the bare path of a FIFO.
const (
	schemeFIFO    = "fifo://"
	schemeFile    = "file://"
	schemeBinary  = "binary://"
	schemeBinary2 = "binary-v2://"
)

func isLogger(uri string) bool {
	return strings.HasPrefix(uri, schemeBinary) || strings.HasPrefix(uri, schemeBinary2)
}

// stdioSpec is where a process's input comes from and its output goes: "", the path of a FIFO, one of containerd's
// schemes or of those of package api.
type stdioSpec struct {
	Terminal  bool   `json:"terminal,omitempty"`
	Stdin     string `json:"stdin,omitempty"`
	Stdout    string `json:"stdout,omitempty"`
	Stderr    string `json:"stderr,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	// UID and GID own the pipes of the output where they are not 0; otherwise the process's user does.
	UID int `json:"uid,omitempty"`
	GID int `json:"gid,omitempty"`
}

// logPath is the CRI log file, "" if there is none.
func (w stdioSpec) logPath() string {
	for _, uri := range []string{w.Stdout, w.Stderr} {
		if path, ok := strings.CutPrefix(uri, api.SchemeCRILog); ok {
			return path
		}
	}
	return ""
}

func (w stdioSpec) check(main bool) error {
	for name, uri := range map[string]string{"stdin": w.Stdin, "stdout": w.Stdout, "stderr": w.Stderr} {
		path, cri := strings.CutPrefix(uri, api.SchemeCRILog)
		switch {
		case uri == "", filepath.IsAbs(uri):
		case name != "stdin" && outputPath(uri):
		case cri && name != "stdin" && main && filepath.IsAbs(path):
			if path != w.logPath() {
				return fmt.Errorf("stdout and stderr name two log files: %w", errdefs.ErrInvalidArgument)
			}
		case uri == api.SchemeAttach && name == "stdin" && main:
		default:
			return fmt.Errorf("%s %q: want the path of a FIFO, for output fifo, file, binary or binary-v2:// and an absolute path, "+
				"for a container's output cri:// too: %w", name, uri, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// outputPath tells whether uri has one of containerd's schemes and an absolute path.
func outputPath(uri string) bool {
	for _, scheme := range []string{schemeFIFO, schemeFile, schemeBinary, schemeBinary2} {
		if path, ok := strings.CutPrefix(uri, scheme); ok {
			return filepath.IsAbs(path)
		}
	}
	return false
}
