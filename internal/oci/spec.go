package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
)

// spec writes a config.json to begin with: a shell in the bundle's directory rootfs.
func (a *app) spec(_ context.Context, args []string) error {
	f := a.flags("spec")
	bundle := f.String("bundle", "", "the bundle's directory (default: the working directory)")
	f.alias("b", "bundle")
	rootless := f.Bool("rootless", false, "not supported: containers are made by root")
	if _, err := a.arguments(f, args, true, 0, 0); err != nil {
		return err
	}
	if *rootless {
		return errors.New("--rootless is not supported: containers are made by root")
	}
	path := filepath.Join(*bundle, "config.json")
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("file %s exists: remove it first", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := json.MarshalIndent(exampleSpec(), "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o666)
}

func exampleSpec() *specs.Spec {
	s := engine.DefaultSpec()
	s.Root.Readonly = true
	s.Hostname = "berth"
	p := s.Process
	p.Terminal = true
	p.Args = []string{"sh"}
	p.Env = append(p.Env, "TERM=xterm")
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	return s
}
