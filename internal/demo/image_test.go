package demo

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// exe is this very test binary: a Go binary like any other.
func exe(t *testing.T) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestImageKeepsEveryPromiseOfAnImage(t *testing.T) {
	img, err := Image(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	// Fast, because the slow check takes every layer for a gzip one.
	if err := validate.Image(img, validate.Fast); err != nil {
		t.Fatal(err)
	}
}

func TestImageIsTheSameForTheSameBinary(t *testing.T) {
	a, err := Image(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Image(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	da, err := a.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if db, err := b.Digest(); err != nil || da != db {
		t.Fatalf("digests differ: %v, %v (%v)", da, db, err)
	}
}

func TestImageRunsBerthAndSaysWhichOne(t *testing.T) {
	img, err := Image(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	id, err := Identity(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Config.Labels[IdentityLabel]; got != id {
		t.Errorf("identity label is %q, want %q", got, id)
	}
	if len(cfg.Config.Entrypoint) != 1 || cfg.Config.Entrypoint[0] != "/berth" {
		t.Errorf("entrypoint is %q", cfg.Config.Entrypoint)
	}
}

func TestLayerHoldsTheBinaryAndThePasswdFile(t *testing.T) {
	l, err := newLayer(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	sum, sizes := sha256.New(), map[string]int64{}
	body := io.TeeReader(rc, sum)
	for tr := tar.NewReader(body); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes[h.Name] = h.Size
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != l.digest.Hex {
		t.Errorf("content has digest %s, the layer says %s", got, l.digest.Hex)
	}
	st, err := os.Stat(exe(t))
	if err != nil {
		t.Fatal(err)
	}
	if sizes["berth"] != st.Size() {
		t.Errorf("berth has %d bytes in the layer, %d on disk", sizes["berth"], st.Size())
	}
	if sizes["etc/passwd"] == 0 {
		t.Error("no etc/passwd in the layer")
	}
}

func TestIdentityRefusesWhatIsNoGoBinary(t *testing.T) {
	p := t.TempDir() + "/x"
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Identity(p); err == nil {
		t.Error("a shell script was identified as a Go binary")
	}
}
