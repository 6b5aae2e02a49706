package machine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// hostileImage is the test image with another configuration, and with a passwd file of its own, if it is to have one.
func hostileImage(t *testing.T, passwd []byte, change func(*v1.Config)) v1.Image {
	t.Helper()
	img := must(testImage())
	if passwd != nil {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		w.WriteHeader(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: int64(len(passwd))})
		w.Write(passwd)
		w.Close()
		layer := must(tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil }))
		img = must(mutate.AppendLayers(img, layer))
	}
	config := must(img.ConfigFile()).DeepCopy()
	change(&config.Config)
	return must(mutate.ConfigFile(img, config))
}

// An image's configuration is data: its labels and volumes decide nothing (CVE-2026-53488, CVE-2022-23648), its user is
// a number that fits or nobody (CVE-2024-40635), its passwd is read up to a limit (CVE-2026-47262), its directory is one
// of its own (CVE-2024-21626).
func TestImageConfigurationIsData(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("hostile", false))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(p.Dir, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	const mark = "label-of-an-image"
	put := func(name string, img v1.Image) string {
		t.Helper()
		ref := "test.local/" + name + ":1"
		if _, err := d.images.Put(ctx, ref, img); err != nil {
			t.Fatal(err)
		}
		return ref
	}
	for name, c := range map[string]struct {
		img  v1.Image
		want string // in the error
	}{
		"bigpasswd": {hostileImage(t, bytes.Repeat([]byte("x:x:1:1::/:/\n"), 1<<18), func(c *v1.Config) { c.User = "web" }), "passwd"},
		"overflow":  {hostileImage(t, nil, func(c *v1.Config) { c.User = "4294967296" }), "4294967296"},
		"fromfile":  {hostileImage(t, []byte("web:x:4294967296:0::/:/bin/sh\n"), func(c *v1.Config) { c.User = "web" }), "web"},
		"workdir":   {hostileImage(t, nil, func(c *v1.Config) { c.WorkingDir = "/proc/self/fd/7/../../.." }), "working directory"},
	} {
		spec := shell(name, "sleep 1000")
		spec.Image = put(name, c.img)
		if _, err := d.start(ctx, sb, spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	spec := shell("labels", "sleep 1000")
	spec.Image = put("labels", hostileImage(t, nil, func(c *v1.Config) {
		c.Labels = map[string]string{
			"io.kubernetes.cri.container-type": mark, "io.kubernetes.cri.sandbox-id": mark, "containerd.io/restart.loguri": "binary:///bin/" + mark,
			"io.berth.pod.ips": mark, "cdi.k8s.io/x": mark, "org.systemd.property.ExecStart": mark,
		}
		c.Volumes = map[string]struct{}{"/../../../.." + outside: {}, "/etc": {}, "/proc": {}, outside: {}}
	}))
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.exec(t, c, "grep -c -e ' "+outside+" ' -e ' /etc ' /proc/mounts; cat /etc/passwd | busybox wc -l"); got != "0\n2" {
		t.Errorf("volumes of the image: %q", got)
	}
	if left, err := os.ReadDir(outside); len(left) > 0 || err != nil {
		t.Errorf("outside: %v, %v", left, err)
	}
	filepath.WalkDir(p.run(), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte(mark)) {
				t.Errorf("%s has a label of the image", path)
			}
		}
		return nil
	})
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
