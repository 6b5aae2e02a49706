package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// A rootfs of several mounts, each at its own target, is handed to a shim whole.
func TestTaskRequestHasWholeMounts(t *testing.T) {
	req, err := taskRequest(runtime.Task{ID: "c", Rootfs: []engine.Mount{
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a"}}, {Type: "bind", Source: "/b", Target: "/srv", Options: []string{"ro"}},
	}}, &pb.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, m := range req.Rootfs {
		got = append(got, append([]string{m.Type, m.Source, m.Target}, m.Options...))
	}
	if d := cmp.Diff([][]string{{"overlay", "overlay", "", "lowerdir=/a"}, {"bind", "/b", "/srv", "ro"}}, got); d != "" {
		t.Error(d)
	}
}
