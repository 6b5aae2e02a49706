package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What critest is built from, and what its module's bytes are.
const (
	criTools    = "sigs.k8s.io/cri-tools@v1.36.0"
	criToolsSum = "h1:Xt+LLvBVH1Fnp/AR2EyHApyWS/88y2KlWjlDc2HR+aw="
	ginkgo      = "github.com/onsi/ginkgo/v2/ginkgo@v2.28.1"
)

// originalDigest is in critest's source: the image behind it is in a registry on the internet alone.
const originalDigest = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"

// builder keeps what it builds in a folder.
type builder struct{ cache string }

func (b builder) bin(name string) string { return filepath.Join(b.cache, "bin", name) }

// goTool runs the go command.
func goTool(ctx context.Context, dir string, env []string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w: %s%s", strings.Join(args, " "), err, out, errs.String())
	}
	return out, nil
}

// toolbox builds the program that is in the images. Its bytes must not depend on where it was built.
func (b builder) toolbox(ctx context.Context) (string, error) {
	out := b.bin("toolbox")
	_, err := goTool(ctx, "", []string{"CGO_ENABLED=0"}, "build", "-trimpath", "-ldflags", "-s -w -buildid=", "-o", out, "github.com/11f9778f/berth/test/critest/toolbox")
	return out, err
}

// critest builds the suite, unless it is there. In its source the digest of one image is replaced by
// that of ours: the image with the original one is on the internet alone.
func (b builder) critest(ctx context.Context, digest string) (string, error) {
	sum := sha256.Sum256([]byte(criTools + digest))
	out := b.bin("critest-" + hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	fmt.Println("building", criTools)
	raw, err := goTool(ctx, "", nil, "mod", "download", "-json", criTools)
	if err != nil {
		return "", err
	}
	var mod struct{ Dir, Sum string }
	if err := json.Unmarshal(raw, &mod); err != nil {
		return "", err
	}
	if mod.Sum != criToolsSum {
		return "", fmt.Errorf("%s has the checksum %s, not %s", criTools, mod.Sum, criToolsSum)
	}
	src := filepath.Join(b.cache, "cri-tools")
	if err := b.patched(mod.Dir, src, digest); err != nil {
		return "", err
	}
	defer os.RemoveAll(src)
	tmp := out + ".new"
	if _, err := goTool(ctx, src, []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off"}, "test", "-c", "-o", tmp, "./cmd/critest"); err != nil {
		return "", err
	}
	return out, os.Rename(tmp, out)
}

// patched copies the module, with another digest in one file.
func (b builder) patched(module, dst, digest string) error {
	if err := os.RemoveAll(dst); err != nil {
		return err
	}
	for _, dir := range []string{"cmd", "pkg"} {
		if err := os.CopyFS(filepath.Join(dst, dir), os.DirFS(filepath.Join(module, dir))); err != nil {
			return err
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dst, file), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	file := filepath.Join(dst, "pkg", "validate", "consts.go")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if bytes.Count(text, []byte(originalDigest)) != 1 {
		return fmt.Errorf("%s does not hold the digest %s once", file, originalDigest)
	}
	if err := os.Remove(file); err != nil { // modules are read-only
		return err
	}
	return os.WriteFile(file, bytes.Replace(text, []byte(originalDigest), []byte(digest), 1), 0o644)
}

// ginkgo builds the program that critest calls to run specs in parallel.
func (b builder) ginkgo(ctx context.Context) error {
	if _, err := os.Stat(b.bin("ginkgo")); err == nil {
		return nil
	}
	_, err := goTool(ctx, "", []string{"GOBIN=" + filepath.Join(b.cache, "bin")}, "install", ginkgo)
	return err
}
