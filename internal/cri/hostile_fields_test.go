package cri

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostileStrings go into every string of a request.
var hostileStrings = []string{
	"", " ", ".", "..", "/", "//", "../../../etc/passwd", "/../../etc/shadow", "a/b", "/proc/self/root/x", "/proc/1/ns/net", "a\x00b", "a\nb",
	"-rf", "${HOME}", "%s%n", "*", "sha256:" + strings.Repeat("0", 64), "localhost/x", "vendor/class=x", "ALL", "all",
	strings.Repeat("x", 70000), strings.Repeat("../", 2000), "日本\u202e",
}

var hostileNumbers = []int64{0, 1, -1, 2, math.MaxInt32, math.MinInt32, math.MaxUint32, math.MaxInt64, math.MinInt64}

// eachHostile calls f with a copy of m for each field, nested ones too, and each hostile value of it. Lists
// and maps get one hostile element.
func eachHostile(m proto.Message, f func(what string, m proto.Message)) {
	var walk func(path []protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor)
	walk = func(path []protoreflect.FieldDescriptor, md protoreflect.MessageDescriptor) {
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			here := append(path[:len(path):len(path)], fd)
			for n, v := range hostileValues(fd) {
				c := proto.Clone(m)
				if set(c.ProtoReflect(), here, v) {
					f(fmt.Sprintf("%s #%d", name(here), n), c)
				}
			}
			if fd.Kind() == protoreflect.MessageKind && !fd.IsMap() && len(here) < 6 {
				walk(here, fd.Message())
			}
		}
	}
	walk(nil, m.ProtoReflect().Descriptor())
}

func name(path []protoreflect.FieldDescriptor) string {
	var parts []string
	for _, fd := range path {
		parts = append(parts, string(fd.Name()))
	}
	return strings.Join(parts, ".")
}

// hostileValues are for one element of the field; a nil value clears it.
func hostileValues(fd protoreflect.FieldDescriptor) []any {
	if fd.IsMap() {
		var out []any
		for _, s := range hostileStrings {
			out = append(out, [2]string{s, "v"}, [2]string{"k", s}, [2]string{"net." + s, s})
		}
		return out
	}
	var out []any
	switch fd.Kind() {
	case protoreflect.StringKind:
		for _, s := range hostileStrings {
			out = append(out, s)
		}
	case protoreflect.BytesKind:
		out = append(out, []byte{0}, []byte{0xff, 0xfe}, make([]byte, 70000))
	case protoreflect.BoolKind:
		out = append(out, true, false)
	case protoreflect.EnumKind:
		out = append(out, protoreflect.EnumNumber(99), protoreflect.EnumNumber(-1), protoreflect.EnumNumber(1), protoreflect.EnumNumber(2), protoreflect.EnumNumber(3))
	case protoreflect.MessageKind:
		out = append(out, nil, "empty")
	case protoreflect.Int32Kind:
		for _, n := range hostileNumbers {
			out = append(out, int32(n))
		}
	case protoreflect.Int64Kind:
		for _, n := range hostileNumbers {
			out = append(out, n)
		}
	case protoreflect.Uint32Kind:
		for _, n := range hostileNumbers {
			out = append(out, uint32(n))
		}
	case protoreflect.Uint64Kind:
		for _, n := range hostileNumbers {
			out = append(out, uint64(n))
		}
	}
	return out
}

// set puts the value at the path, making messages and lists of one on the way.
func set(m protoreflect.Message, path []protoreflect.FieldDescriptor, v any) bool {
	fd := path[0]
	if len(path) > 1 {
		if fd.IsList() {
			l := m.Mutable(fd).List()
			if l.Len() == 0 {
				l.AppendMutable()
			}
			return set(l.Get(0).Message(), path[1:], v)
		}
		return set(m.Mutable(fd).Message(), path[1:], v)
	}
	switch pair, isPair := v.([2]string); {
	case v == nil:
		m.Clear(fd)
	case isPair && fd.MapValue().Kind() == protoreflect.StringKind:
		m.Mutable(fd).Map().Set(protoreflect.ValueOfString(pair[0]).MapKey(), protoreflect.ValueOfString(pair[1]))
	case isPair:
		return false
	case v == "empty" && fd.Kind() == protoreflect.MessageKind && fd.IsList():
		m.Mutable(fd).List().AppendMutable()
	case v == "empty" && fd.Kind() == protoreflect.MessageKind:
		m.Set(fd, m.NewField(fd))
	case fd.IsList():
		m.Mutable(fd).List().Append(protoreflect.ValueOf(v))
	default:
		m.Set(fd, protoreflect.ValueOf(v))
	}
	return true
}

// Every field of a pod's and a container's configuration is hostile once: nothing panics, a refusal has a
// code that tells whose fault it is, and nothing is left of what was refused, or of what was not, once it
// is removed.
func TestEveryFieldHostile(t *testing.T) {
	run := t.TempDir()
	s := newServerIn(t, run)
	ctx := context.Background()
	tried, accepted := 0, 0
	eachHostile(podConfig(), func(what string, m proto.Message) {
		tried++
		r, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: m.(*runtimeapi.PodSandboxConfig)})
		if err != nil {
			refused(t, "pod "+what, err)
			return
		}
		accepted++
		if _, err := s.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: r.PodSandboxId, Verbose: true}); err != nil {
			t.Errorf("pod %s: status: %v", what, err)
		}
		if _, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId}); err != nil {
			t.Errorf("pod %s: remove: %v", what, err)
		}
	})
	nothingLeft(t, s, run)
	pod, err := s.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig()})
	if err != nil {
		t.Fatal(err)
	}
	eachHostile(containerConfig(), func(what string, m proto.Message) {
		c := m.(*runtimeapi.ContainerConfig)
		for _, x := range c.Mounts { // a missing source is made, so keep to one place
			if filepath.IsAbs(x.HostPath) && !strings.Contains(x.HostPath, "\x00") {
				x.HostPath = filepath.Join(run, "volume")
			}
		}
		tried++
		r, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: c})
		if err != nil {
			refused(t, "container "+what, err)
			return
		}
		accepted++
		if _, err := s.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: r.ContainerId, Verbose: true}); err != nil {
			t.Errorf("container %s: status: %v", what, err)
		}
		if _, err := s.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: r.ContainerId}); err != nil {
			t.Errorf("container %s: remove: %v", what, err)
		}
	})
	if _, err := s.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s, run)
	t.Logf("%d hostile requests, %d of them harmless", tried, accepted)
	if tried < 1500 || accepted == 0 || accepted > tried*3/4 {
		t.Errorf("%d requests, %d accepted: is every field tried?", tried, accepted)
	}
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
	default:
		t.Errorf("%s: %.300v", what, err)
	}
}

func nothingLeft(t *testing.T, s *Server, run string) {
	t.Helper()
	if n := len(s.rt.Sandboxes()) + len(s.rt.Containers("")); n > 0 {
		t.Errorf("%d sandboxes and containers are left", n)
	}
	for _, dir := range []string{"bundles", "runtime/journal", "runtime/sandboxes", "runtime/containers", "runtime/pods", "runtime/volumes", "runtime/userns"} {
		entries, err := os.ReadDir(filepath.Join(run, dir))
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("left: %s/%s", dir, e.Name())
		}
	}
}
