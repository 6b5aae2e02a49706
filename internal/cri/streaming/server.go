package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Runtime is where the streams lead. Each call ends, at the latest, soon after its context does, which
// is when the client has gone.
type Runtime interface {
	// Exec runs a command. An exit code other than 0 is an error that implements
	// k8s.io/utils/exec.ExitError.
	Exec(ctx context.Context, containerID string, cmd []string, s Streams) error
	Attach(ctx context.Context, containerID string, s Streams) error
	// PortForward carries bytes between stream and a port of the sandbox.
	PortForward(ctx context.Context, sandboxID string, port int32, stream io.ReadWriteCloser) error
}

// Streams are the client's ends; what it does not want is nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	TTY      bool
	Resize   <-chan remotecommand.TerminalSize
}

// Config says where to listen. The zero value is good: a loopback port of the kernel's choice, plain HTTP.
type Config struct {
	// Address is host:port; default "127.0.0.1:0". Whoever reaches it and knows a URL gets the stream.
	Address string
	// Advertise is the host[:port] that URLs name, if not the address listened on.
	Advertise string
	// TLS serves https; nil serves http.
	TLS *TLS
	// IdleTimeout ends a connection on which nothing has moved for so long. Default 4 h.
	IdleTimeout time.Duration
	// CreationTimeout is how long a client may take to open its streams. Default 30 s.
	CreationTimeout time.Duration
	// TokenLife is how long a URL waits for its client. Default 1 min.
	TokenLife time.Duration
}

func (c *Config) setDefaults() {
	if c.Address == "" {
		c.Address = "127.0.0.1:0"
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 4 * time.Hour
	}
	if c.CreationTimeout == 0 {
		c.CreationTimeout = remotecommand.DefaultStreamCreationTimeout
	}
	if c.TokenLife == 0 {
		c.TokenLife = time.Minute
	}
}

// Server hands out URLs and serves them.
type Server struct {
	cfg    Config
	rt     Runtime
	log    *slog.Logger
	base   url.URL
	tokens *tokens
	http   *http.Server
	done   chan struct{}
}

// Listen starts a server. Close ends it.
func Listen(cfg Config, rt Runtime, log *slog.Logger) (*Server, error) {
	cfg.setDefaults()
	s := &Server{cfg: cfg, rt: rt, log: log, tokens: newTokens(cfg.TokenLife), done: make(chan struct{})}
	tlsConfig, err := cfg.TLS.config()
	if err != nil {
		return nil, fmt.Errorf("streaming server: %w", err)
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for exec and attach streams: %w", err)
	}
	s.base = url.URL{Scheme: "http", Host: advertised(cfg.Advertise, l.Addr().String())}
	mux := http.NewServeMux()
	mux.HandleFunc("/{kind}/{token}", s.serve)
	s.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	serve := func() error { return s.http.Serve(l) }
	if tlsConfig != nil {
		s.base.Scheme = "https"
		s.http.TLSConfig = tlsConfig
		s.http.Protocols = new(http.Protocols) // an HTTP/2 connection can't be taken over
		s.http.Protocols.SetHTTP1(true)
		serve = func() error { return s.http.ServeTLS(l, "", "") }
	}
	go func() {
		defer close(s.done)
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			log.Error("streaming server ended", "error", err)
		}
	}()
	return s, nil
}

// advertised completes what URLs name with the port that is listened on.
func advertised(want, have string) string {
	if want == "" {
		return have
	}
	if _, _, err := net.SplitHostPort(want); err == nil {
		return want
	}
	_, port, _ := net.SplitHostPort(have)
	return net.JoinHostPort(want, port)
}

// Close ends the server and all its sessions.
func (s *Server) Close() error {
	err := s.http.Close()
	s.tokens.close()
	<-s.done
	return err
}

// Base is the beginning of all URLs, as "http://127.0.0.1:34567".
func (s *Server) Base() string { return s.base.String() }

// Exec makes the URL of a command in a container.
func (s *Server) Exec(req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	opts, err := options(req)
	if err != nil {
		return nil, err
	}
	a := adapter{rt: s.rt, opts: opts}
	u, err := s.offer("exec", func(w http.ResponseWriter, r *http.Request) {
		if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
			s.serveChannels(w, r, opts, func(ctx context.Context, st Streams) error {
				return s.rt.Exec(ctx, req.GetContainerId(), req.GetCmd(), st)
			})
			return
		}
		remotecommand.ServeExec(w, r, a, "", "", req.GetContainerId(), req.GetCmd(), &a.opts,
			s.cfg.IdleTimeout, s.cfg.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	return &runtimeapi.ExecResponse{Url: u}, err
}

// Attach makes the URL of a container's own streams.
func (s *Server) Attach(req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	opts, err := options(req)
	if err != nil {
		return nil, err
	}
	a := adapter{rt: s.rt, opts: opts}
	u, err := s.offer("attach", func(w http.ResponseWriter, r *http.Request) {
		if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
			s.serveChannels(w, r, opts, func(ctx context.Context, st Streams) error { return s.rt.Attach(ctx, req.GetContainerId(), st) })
			return
		}
		remotecommand.ServeAttach(w, r, a, "", "", req.GetContainerId(), &a.opts,
			s.cfg.IdleTimeout, s.cfg.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	})
	return &runtimeapi.AttachResponse{Url: u}, err
}

// PortForward makes the URL of a sandbox's ports.
func (s *Server) PortForward(req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if req.GetPodSandboxId() == "" {
		return nil, status.Error(codes.InvalidArgument, "pod_sandbox_id is missing")
	}
	for i, p := range req.GetPort() {
		if p < 1 || p > 65535 {
			return nil, status.Errorf(codes.InvalidArgument, "port[%d]: %d is not from 1 to 65535", i, p)
		}
	}
	ports, err := portforward.BuildV4Options(req.GetPort())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "port: %v", err)
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		portforward.ServePortForward(w, r, forwarder{r.Context(), s.rt}, req.GetPodSandboxId(), "", ports,
			s.cfg.IdleTimeout, s.cfg.CreationTimeout, portforward.SupportedProtocols)
	}
	u, err := s.offer("portforward", func(w http.ResponseWriter, r *http.Request) {
		if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
			s.serveTunnel(w, r, serve)
			return
		}
		serve(w, r)
	})
	return &runtimeapi.PortForwardResponse{Url: u}, err
}

// wishes are what ExecRequest and AttachRequest have in common.
type wishes interface {
	GetContainerId() string
	GetTty() bool
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
}

// options refuses what the CRI forbids (api.proto, ExecRequest and AttachRequest).
func options(r wishes) (remotecommand.Options, error) {
	o := remotecommand.Options{Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), TTY: r.GetTty()}
	switch {
	case r.GetContainerId() == "":
		return o, status.Error(codes.InvalidArgument, "container_id is missing")
	case o.TTY && o.Stderr:
		return o, status.Error(codes.InvalidArgument, "tty and stderr: a terminal has one output only")
	case !o.Stdin && !o.Stdout && !o.Stderr:
		return o, status.Error(codes.InvalidArgument, "one of stdin, stdout and stderr must be true")
	}
	return o, nil
}

func (s *Server) offer(kind string, h http.HandlerFunc) (string, error) {
	token, err := s.tokens.put(kind, h)
	if err != nil {
		return "", err
	}
	return s.base.JoinPath(kind, token).String(), nil
}

// serve gives a token's session the connection.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return
	}
	h := s.tokens.take(r.PathValue("kind"), r.PathValue("token"))
	if h == nil {
		http.NotFound(w, r)
		return
	}
	ctx, end := context.WithCancel(r.Context())
	defer end()
	h(&watched{ResponseWriter: w, end: end}, r.WithContext(ctx))
}
