package machine_test

import (
	"context"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/runtime"
)

// An image's files, or a part of them, are a read-only volume; the image stays while they are in use.
func TestImageVolumes(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("vol", true))
	if err != nil {
		t.Fatal(err)
	}
	volume := func(path, sub string) runtime.Mount {
		return runtime.Mount{ContainerPath: path, Image: &runtime.ImageVolume{Image: "test.local/busybox:1", SubPath: sub}}
	}
	spec := shell("main", "sleep 1000")
	spec.Mounts = []runtime.Mount{volume("/all", ""), volume("/part", "etc"), volume("/one", "etc/group")}
	c, err := d.start(ctx, sb, spec)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.exec(t, c, "cat /all/etc/group /part/group /one | grep -c ^logs"); got != "3" {
		t.Errorf("%s volumes have the file", got)
	}
	for _, f := range []string{"/all/x", "/part/x", "/one"} {
		if got := d.exec(t, c, "touch "+f+" 2>&1 || true"); !strings.Contains(got, "Read-only file system") {
			t.Errorf("touch %s: %q", f, got)
		}
	}
	if got := d.exec(t, c, "/all/bin/busybox true 2>&1 || true"); !strings.Contains(got, "Permission denied") {
		t.Errorf("a program in an image volume: %q", got)
	}
	for sub, says := range map[string]string{"no/such": "no such file", "bin/sh": ""} {
		bad := shell("bad"+strings.ReplaceAll(sub, "/", "-"), "true")
		bad.Mounts = []runtime.Mount{volume("/v", sub)}
		id, err := d.rt.CreateContainer(ctx, sb, bad)
		if (says == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), says)) {
			t.Errorf("sub path %s: %v", sub, err)
		}
		if err == nil {
			if err := d.rt.RemoveContainer(ctx, id); err != nil {
				t.Error(err)
			}
		}
	}
	if st, err := d.rt.Container(c); err != nil || st.Spec.Mounts[0].Image.Ref == "" {
		t.Errorf("%+v, %v", st.Spec.Mounts, err)
	}
	d.close()
	d = p.open(t)
	if got := d.exec(t, c, "grep -c ^logs /part/group"); got != "1" {
		t.Errorf("after a restart: %q", got)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
