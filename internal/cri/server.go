package cri

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/cri/streaming"
	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/runtime"
)

// maxMessage bounds a gRPC message in bytes: the two 16 MiB streams of an ExecSync and some room.
const maxMessage = 40 << 20

// Images is the image store, as far as the CRI needs it. *image.Store is one.
type Images interface {
	Pull(ctx context.Context, ref string, o image.PullOptions) (*image.Image, error)
	Get(refOrID string) (*image.Image, error)
	Annotations(img *image.Image) (map[string]string, error)
	List() []*image.Image
	Remove(ctx context.Context, refOrID string) error
	Allowed(refOrID, asked string) error
	FSInfo(ctx context.Context) (images, snapshots image.FSInfo, err error)
}

// Config is what a Server is made from. Runtime and Images must be set.
type Config struct {
	Runtime *runtime.Runtime
	Images  Images
	// Network takes the pod CIDR of UpdateRuntimeConfig and tells whether it is ready; nil refuses the one and is
	// always the other.
	Network Network
	// SnapshotDir is where the image store keeps writable layers; statistics name it.
	SnapshotDir string
	// StateDir is the node's run directory; verbose answers name it.
	StateDir string
	// Pinned are patterns (path.Match) of the names of images that a kubelet should not collect.
	Pinned []string
	// Streaming says where exec, attach and port-forward are served; the zero value is loopback.
	Streaming streaming.Config
	// Version is Berth's own.
	Version string
	// Unary and Stream see every call from outside before the Server does.
	Unary  []grpc.UnaryServerInterceptor
	Stream []grpc.StreamServerInterceptor
	Logger *slog.Logger
}

// Server implements the CRI's RuntimeService and ImageService. Its methods may be called in process.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	cfg    Config
	rt     *runtime.Runtime
	images Images
	log    *slog.Logger

	streams *streaming.Server
}

var (
	_ runtimeapi.RuntimeServiceServer = (*Server)(nil)
	_ runtimeapi.ImageServiceServer   = (*Server)(nil)
)

// New makes a Server. It listens for the streams of Exec, Attach and PortForward, as Config.Streaming says.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, rt: cfg.Runtime, images: cfg.Images, log: cfg.Logger}
	var err error
	if s.streams, err = streaming.Listen(cfg.Streaming, streamRuntime{s}, s.log); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the streams. The runtime is the caller's.
func (s *Server) Close() error { return s.streams.Close() }

// streamWorkers is how many goroutines stay for the next calls: a new one's stack would grow again in each. More calls at
// once get goroutines of their own.
const streamWorkers = 8

// window is how much of a connection's or call's requests may be on their way, in bytes. That it is said keeps gRPC from
// measuring it: a ping and its answer with each request, and four changes of threads.
const window = 1 << 20

// Serve answers on a unix socket, which is the caller's to make and to guard, until ctx ends; then calls
// in flight get a moment to finish. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		grpc.NumStreamWorkers(streamWorkers), grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(slices.Concat(s.cfg.Unary, []grpc.UnaryServerInterceptor{s.guardUnary})...),
		grpc.ChainStreamInterceptor(slices.Concat(s.cfg.Stream, []grpc.StreamServerInterceptor{s.guardStream})...),
	)
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s)
	stop := context.AfterFunc(ctx, func() {
		late := time.AfterFunc(2*time.Second, g.Stop)
		defer late.Stop()
		g.GracefulStop()
	})
	defer stop()
	if err := g.Serve(l); err != nil {
		return fmt.Errorf("serve CRI on %s: %w", l.Addr(), err)
	}
	return nil
}

// guardUnary turns a panic into an Internal error: one bad request must not end the node.
func (s *Server) guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
	defer s.recovered(info.FullMethod, &err)
	resp, err = h(ctx, req)
	if err != nil {
		s.log.Debug("CRI call failed", "method", info.FullMethod, "error", err)
	}
	return resp, err
}

func (s *Server) guardStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer s.recovered(info.FullMethod, &err)
	return h(srv, ss)
}

func (s *Server) recovered(method string, err *error) {
	if p := recover(); p != nil {
		s.log.Error("CRI call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Errorf(codes.Internal, "%s failed by a fault in Berth; its log says more", method)
	}
}
