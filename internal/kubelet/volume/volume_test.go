package volume

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/11f9778f/berth/internal/sys"
)

func ptr[T any](v T) *T { return &v }

func testPod(dir string, volumes ...v1.Volume) *Pod {
	return &Pod{Dir: dir,
		Pod: &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: v1.PodSpec{Volumes: volumes}},
		ConfigMaps: []*v1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Name: "cm"},
			Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {0, 1}}}},
		Secrets: []*v1.Secret{{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Data: map[string][]byte{"k": []byte("v")}}},
	}
}

func volume(name string, src v1.VolumeSource) v1.Volume {
	return v1.Volume{Name: name, VolumeSource: src}
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigMapLayout(t *testing.T) {
	v := volume("v", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, DefaultMode: ptr(int32(0o640))}})
	p := testPod(t.TempDir(), v)
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	dir := p.Path(&v)
	if got := content(t, dir+"/a") + content(t, dir+"/b") + content(t, dir+"/c"); got != "12\x00\x01" {
		t.Errorf("content %q", got)
	}
	link, err := os.Readlink(dir + "/a")
	if err != nil || link != "..data/a" {
		t.Errorf("a is a link to %q, %v", link, err)
	}
	if info, _ := os.Stat(dir + "/a"); info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	before, _ := os.Readlink(dir + "/..data")
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(dir + "/..data"); again != before {
		t.Errorf("the same content was written anew: %s, then %s", before, again)
	}
	p.ConfigMaps[0].Data = map[string]string{"a": "new"}
	p.ConfigMaps[0].BinaryData = nil
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir+"/a"); got != "new" {
		t.Errorf("a is %q after the change", got)
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "..2 ..data a" {
		t.Errorf("left in the volume: %s", got)
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(p.Dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}

func TestItems(t *testing.T) {
	src := &v1.SecretVolumeSource{SecretName: "s", Items: []v1.KeyToPath{{Key: "k", Path: "deep/er/key", Mode: ptr(int32(0o400))}}}
	v := volume("v", v1.VolumeSource{Secret: src})
	p := testPod(t.TempDir(), v)
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	file := p.Path(&v) + "/deep/er/key"
	if content(t, file) != "v" {
		t.Error("wrong content")
	}
	if info, _ := os.Stat(file); info.Mode().Perm() != 0o400 {
		t.Errorf("mode %v", info.Mode())
	}
	src.Items[0].Key = "none"
	if err := p.Prepare(); err == nil || err.Error() != `volume "v": there is no key "none"` {
		t.Errorf("got %v", err)
	}
	src.SecretName = "missing"
	if err := p.Prepare(); err == nil || err.Error() != `volume "v": there is no Secret "missing"` {
		t.Errorf("got %v", err)
	}
	src.Optional = ptr(true)
	if err := p.Prepare(); err != nil {
		t.Error(err)
	}
}

func TestEmptyDirKeepsWhatContainersMade(t *testing.T) {
	v := volume("v", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}})
	p := testPod(t.TempDir(), v)
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	dir := p.Path(&v)
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o777 {
		t.Errorf("mode %v, want rwxrwxrwx", info.Mode())
	}
	os.WriteFile(dir+"/f", []byte("x"), 0o600)
	os.Chmod(dir, 0o700)
	if err := p.Prepare(); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 || content(t, dir+"/f") != "x" {
		t.Errorf("it was changed: %v", info.Mode())
	}
}

func TestMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	v := volume("v", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr(resource.MustParse("1Mi"))}})
	p := testPod(t.TempDir(), v)
	p.Pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr(int64(4321))}
	t.Cleanup(func() { sys.UnmountFolder(p.Path(&v)) })
	for range 2 {
		if err := p.Prepare(); err != nil {
			t.Fatal(err)
		}
	}
	dir := p.Path(&v)
	if mounted, err := sys.IsMountPoint(dir); err != nil || !mounted {
		t.Fatalf("mounted: %v, %v", mounted, err)
	}
	if info, _ := os.Stat(dir); info.Mode()&(fs.ModePerm|fs.ModeSetgid) != 0o777|fs.ModeSetgid {
		t.Errorf("mode %v", info.Mode())
	}
	if err := os.WriteFile(dir+"/big", make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MiB fit into 1 MiB")
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), p.Dir) {
		t.Error("a mount is left")
	}
	if _, err := os.Lstat(filepath.Join(p.Dir, "volumes")); err == nil {
		t.Error("files are left")
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/file", nil, 0o600)
	for _, c := range []struct {
		path string
		typ  v1.HostPathType
		want string
	}{
		{"file", v1.HostPathFile, ""},
		{"file", v1.HostPathUnset, ""},
		{"file", v1.HostPathDirectory, "its type should be Directory"},
		{"none", v1.HostPathDirectory, "does not exist; its type is Directory"},
		{"none", v1.HostPathUnset, ""},
		{"made", v1.HostPathDirectoryOrCreate, ""},
		{"made", v1.HostPathDirectory, ""},
		{"made2", v1.HostPathFileOrCreate, ""},
		{"made2", v1.HostPathSocket, "its type should be Socket"},
	} {
		p := testPod(dir, volume("v", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir + "/" + c.path, Type: &c.typ}}))
		err := p.Prepare()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s as %q: got %v, want %q", c.path, c.typ, err, c.want)
		}
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dir + "/made"); err != nil {
		t.Error("Remove took away a host path")
	}
}
