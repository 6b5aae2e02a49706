package server

import (
	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/ttrpc"
)

// register offers the services. Task has two names, whose messages are the same.
func (s *Server) register(srv *ttrpc.Server) {
	t := taskService{s}
	task := []ttrpc.Method{
		ttrpc.Unary("State", t.State), ttrpc.Unary("Create", t.Create), ttrpc.Unary("Start", t.Start), ttrpc.Unary("Delete", t.Delete),
		ttrpc.Unary("Pids", t.Pids), ttrpc.Unary("Pause", t.Pause), ttrpc.Unary("Resume", t.Resume),
		ttrpc.Unary("Checkpoint", t.Checkpoint), ttrpc.Unary("Kill", t.Kill), ttrpc.Unary("Exec", t.Exec),
		ttrpc.Unary("ResizePty", t.ResizePty), ttrpc.Unary("CloseIO", t.CloseIO), ttrpc.Unary("Update", t.Update),
		ttrpc.Unary("Wait", t.Wait), ttrpc.Unary("Stats", t.Stats), ttrpc.Unary("Connect", t.Connect),
		ttrpc.Unary("Shutdown", t.Shutdown),
	}
	srv.Register(containerd.TaskService, task...)
	srv.Register(containerd.TaskServiceV2, task...)
	b := sandboxService{s}
	srv.Register(containerd.SandboxService,
		ttrpc.Unary("CreateSandbox", b.CreateSandbox), ttrpc.Unary("StartSandbox", b.StartSandbox), ttrpc.Unary("Platform", b.Platform),
		ttrpc.Unary("StopSandbox", b.StopSandbox), ttrpc.Unary("WaitSandbox", b.WaitSandbox),
		ttrpc.Unary("SandboxStatus", b.SandboxStatus), ttrpc.Unary("PingSandbox", b.PingSandbox),
		ttrpc.Unary("ShutdownSandbox", b.ShutdownSandbox), ttrpc.Unary("SandboxMetrics", b.SandboxMetrics),
		ttrpc.Unary("UpdateSandbox", b.UpdateSandbox),
	)
	v := shimService{s}
	srv.Register(api.Service,
		ttrpc.Unary("Hello", v.Hello), ttrpc.Unary("List", v.List), ttrpc.Unary("ReopenLog", v.ReopenLog),
		ttrpc.Unary("ExecSync", v.ExecSync), ttrpc.Unary("Exec", v.Exec), ttrpc.Unary("Attach", v.Attach), ttrpc.Unary("Stats", v.Stats),
		ttrpc.Unary("Trace", v.Trace), ttrpc.Unary("End", v.End), ttrpc.Unary("Upgrade", v.Upgrade),
	)
}
