package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
	"github.com/11f9778f/berth/internal/telemetry"
)

// openTelemetry makes what watches the node's calls.
func (n *Node) openTelemetry(ctx context.Context) error {
	n.metrics = telemetry.NewMetrics(n.version, state{n})
	n.store.pulled = n.metrics.Pulled
	if n.cfg.Traces == "" {
		return nil
	}
	var err error
	n.tracer, err = telemetry.NewTracer(ctx, telemetry.TracerConfig{
		Endpoint: n.cfg.Traces, SampleRatio: n.cfg.TraceRatio, Version: n.version, Run: n.cfg.Run,
		ShimSteps: n.runtime.ContainerTrace, Log: n.cfg.Log,
	})
	return err
}

// unary are the interceptors of the CRI's calls, the outermost first.
func (n *Node) unary() []grpc.UnaryServerInterceptor {
	if n.tracer == nil {
		return []grpc.UnaryServerInterceptor{n.metrics.Unary}
	}
	return []grpc.UnaryServerInterceptor{n.metrics.Unary, n.tracer.Unary}
}

// state counts what the node has.
type state struct{ n *Node }

var _ telemetry.State = state{}

func (s state) Pods() map[string]int {
	by := map[string]int{string(runtime.SandboxReady): 0, string(runtime.SandboxStopped): 0}
	for _, sb := range s.n.runtime.Sandboxes() {
		by[string(sb.State)]++
	}
	return by
}

func (s state) Containers() map[string]int {
	by := map[string]int{string(runtime.ContainerCreated): 0, string(runtime.ContainerRunning): 0, string(runtime.ContainerExited): 0}
	for _, c := range s.n.runtime.Containers("") {
		by[string(c.State)]++
	}
	return by
}

func (s state) Shims() map[string]int {
	by := map[string]int{"alive": 0, "stuck": 0, "dead": 0}
	for _, g := range s.n.shims.Inventory().Groups {
		switch {
		case g.Stuck:
			by["stuck"]++
		case g.Alive:
			by["alive"]++
		default:
			by["dead"]++
		}
	}
	return by
}

func (s state) Images() int        { return len(s.n.store.List()) }
func (s state) PulledBytes() int64 { return s.n.store.Received() }
func (s state) LastEvent() uint64  { return s.n.runtime.EventPosition() }
func (s state) Repaired() uint64   { return s.n.runtime.Repaired() }

// monitor serves /metrics and /healthz.
func (n *Node) monitor(mux *http.ServeMux) {
	mux.Handle("GET /metrics", n.metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := n.healthy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ok")
	})
}

// healthy asks the CRI as a kubelet would: through its socket, whether runtime and network are ready.
func (n *Node) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+n.cfg.CRISocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("the CRI does not answer: %w", err)
	}
	for _, c := range resp.GetStatus().GetConditions() {
		if !c.GetStatus() {
			return fmt.Errorf("%s is false: %s: %s", c.GetType(), c.GetReason(), c.GetMessage())
		}
	}
	return nil
}

// listenMonitor listens at Config.Monitor; nil if nothing is configured.
func (n *Node) listenMonitor() (net.Listener, error) {
	if n.cfg.Monitor == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", n.cfg.Monitor)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return l, nil
}
