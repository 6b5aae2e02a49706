package main

import (
	"strings"
	"testing"

	bootstrapv1 "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseBootstrap(t *testing.T) {
	options := &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: marshal(t, &runcoptions.Options{ShimCgroup: "/shims"})}
	params := &bootstrapv1.BootstrapParams{
		InstanceID: "c", Namespace: "n", ContainerdTtrpcAddress: "/x.ttrpc", Extensions: []*bootstrapv1.Extension{{Value: options}},
	}
	f := flags{id: "c", namespace: "n"}
	for name, c := range map[string]struct {
		raw  []byte
		want bootstrap
	}{
		"nothing":      {nil, bootstrap{}},
		"new":          {marshal(t, params), bootstrap{"/x.ttrpc", "/shims"}},
		"bare options": {marshal(t, options), bootstrap{"", "/shims"}},
		"of another":   {marshal(t, &bootstrapv1.BootstrapParams{InstanceID: "d", Namespace: "n", ContainerdTtrpcAddress: "/x"}), bootstrap{}},
		"garbage":      {[]byte("\xff\xff"), bootstrap{}},
	} {
		if b, err := parseBootstrap(c.raw, f); err != nil || b != c.want {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	if _, err := parseBootstrap(make([]byte, maxBootstrap+1), f); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("too much: %v", err)
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add(marshal(f, &bootstrapv1.BootstrapParams{InstanceID: "c", Namespace: "n"}))
	f.Fuzz(func(t *testing.T, raw []byte) { _, _ = parseBootstrap(raw, flags{id: "c", namespace: "n"}) })
}
