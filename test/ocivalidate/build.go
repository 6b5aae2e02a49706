package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	tools       = "github.com/opencontainers/runtime-tools"
	toolsAt     = "v0.9.0" // as in programs/go.mod
	runcModule  = "github.com/opencontainers/runc"
	runcVersion = "v1.5.2"
)

// builder keeps what it builds in a folder.
type builder struct{ cache string }

// runtime is who is judged.
type runtime struct{ name, path string }

func command(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, out, errs.String())
	}
	return out, nil
}

// programs builds the validation programs and returns their names. They find runtimetest, which they run in
// containers, and the root filesystem in their working directory.
func (b builder) programs(ctx context.Context) ([]string, error) {
	const module = "test/ocivalidate/programs"
	raw, err := command(ctx, module, nil, "go", "mod", "download", "-json", tools+"@"+toolsAt)
	if err != nil {
		return nil, err
	}
	var mod struct{ Dir string }
	if err := json.Unmarshal(raw, &mod); err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(filepath.Join(mod.Dir, "validation"))
	if err != nil {
		return nil, err
	}
	var names []string
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", b.programDir() + "/", tools + "/cmd/runtimetest"}
	for _, d := range dirs {
		if d.IsDir() && d.Name() != "util" {
			names = append(names, d.Name())
			args = append(args, tools+"/validation/"+d.Name())
		}
	}
	if b.complete(append(slices.Clone(names), "runtimetest", rootfs())) {
		return names, nil
	}
	fmt.Println("building the validation programs of runtime-tools", toolsAt)
	if err := os.MkdirAll(b.programDir(), 0o755); err != nil {
		return nil, err
	}
	if _, err := command(ctx, module, []string{"CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly"}, "go", args...); err != nil {
		return nil, err
	}
	archive, err := os.ReadFile(filepath.Join(mod.Dir, rootfs()))
	if err != nil {
		return nil, fmt.Errorf("runtime-tools has no root filesystem for this machine: %w", err)
	}
	return names, os.WriteFile(filepath.Join(b.programDir(), rootfs()), archive, 0o644)
}

func (b builder) programDir() string { return filepath.Join(b.cache, "runtime-tools-"+toolsAt) }

func (b builder) complete(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool {
		_, err := os.Stat(filepath.Join(b.programDir(), n))
		return err != nil
	})
}

// peers are the newest runc, built from its module, and Debian's. One that can't be had is said and left out.
func (b builder) peers(ctx context.Context) []runtime {
	var list []runtime
	for _, get := range []func(context.Context) (runtime, error){b.newestRunc, b.debianRunc} {
		r, err := get(ctx)
		if err != nil {
			fmt.Println("without a peer:", err)
			continue
		}
		list = append(list, r)
	}
	return list
}

func (b builder) newestRunc(ctx context.Context) (runtime, error) {
	bin := filepath.Join(b.cache, "runc-"+runcVersion)
	r := runtime{"runc " + strings.TrimPrefix(runcVersion, "v"), filepath.Join(bin, "runc")}
	if _, err := os.Stat(r.path); err == nil {
		return r, nil
	}
	fmt.Println("building runc", runcVersion)
	if _, err := command(ctx, "", nil, "pkg-config", "--exists", "libseccomp"); err != nil {
		if _, err := command(ctx, "", nil, "apt-get", "install", "-y", "-q", "libseccomp-dev", "pkg-config", "gcc", "libc6-dev"); err != nil {
			return r, fmt.Errorf("runc needs libseccomp-dev: %w", err)
		}
	}
	_, err := command(ctx, "", []string{"CGO_ENABLED=1", "GOBIN=" + bin, "GOFLAGS="}, "go", "install", "-tags", "seccomp", runcModule+"@"+runcVersion)
	return r, err
}

func (b builder) debianRunc(ctx context.Context) (runtime, error) {
	dir := filepath.Join(b.cache, "runc-debian")
	r := runtime{path: filepath.Join(dir, "usr/sbin/runc")}
	if _, err := os.Stat(r.path); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return r, err
		}
		if _, err := command(ctx, dir, nil, "apt-get", "download", "runc"); err != nil {
			return r, err
		}
		debs, _ := filepath.Glob(filepath.Join(dir, "runc_*.deb"))
		if len(debs) != 1 {
			return r, fmt.Errorf("apt-get download runc left %v", debs)
		}
		if _, err := command(ctx, dir, nil, "dpkg", "-x", debs[0], dir); err != nil {
			return r, err
		}
	}
	out, err := command(ctx, "", nil, r.path, "--version")
	if err != nil {
		return r, err
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(string(out), "runc version "), "+")
	r.name = "runc " + version + " (Debian)"
	return r, nil
}
