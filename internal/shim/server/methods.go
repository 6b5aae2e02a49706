package server

import (
	"context"

	"github.com/containerd/ttrpc"
)

// register offers the Task service under both of its names. The messages of v2, which containerd before 2.0 speaks, and of
// v3 are the same on the wire.
func (v taskService) register(srv *ttrpc.Server) {
	desc := &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State": method(v.State), "Create": method(v.Create), "Start": method(v.Start), "Delete": method(v.Delete),
		"Pids": method(v.Pids), "Pause": method(v.Pause), "Resume": method(v.Resume), "Checkpoint": method(v.Checkpoint),
		"Kill": method(v.Kill), "Exec": method(v.Exec), "ResizePty": method(v.ResizePty), "CloseIO": method(v.CloseIO),
		"Update": method(v.Update), "Wait": method(v.Wait), "Stats": method(v.Stats), "Connect": method(v.Connect),
		"Shutdown": method(v.Shutdown),
	}}
	srv.RegisterService("containerd.task.v2.Task", desc)
	srv.RegisterService("containerd.task.v3.Task", desc)
}

func method[Req, Resp any](f func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(req); err != nil {
			return nil, err
		}
		return f(ctx, req)
	}
}
