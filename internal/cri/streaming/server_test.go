package streaming

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// fake is a Runtime made of functions.
type fake struct {
	exec    func(ctx context.Context, id string, cmd []string, s Streams) error
	attach  func(ctx context.Context, id string, s Streams) error
	forward func(ctx context.Context, id string, port int32, s io.ReadWriteCloser) error
}

func (f fake) Exec(ctx context.Context, id string, cmd []string, s Streams) error {
	return f.exec(ctx, id, cmd, s)
}
func (f fake) Attach(ctx context.Context, id string, s Streams) error { return f.attach(ctx, id, s) }
func (f fake) PortForward(ctx context.Context, id string, port int32, s io.ReadWriteCloser) error {
	return f.forward(ctx, id, port, s)
}

func listen(t *testing.T, cfg Config, f fake) *Server {
	t.Helper()
	s, err := Listen(cfg, f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// cat copies stdin to stdout, says something on stderr and ends with code 7.
func cat(_ context.Context, _ string, cmd []string, s Streams) error {
	if s.In != nil {
		if _, err := io.Copy(s.Out, s.In); err != nil {
			return err
		}
	}
	if s.Err != nil {
		fmt.Fprintf(s.Err, "%s %t", strings.Join(cmd, " "), s.TTY)
	}
	return utilexec.CodeExitError{Err: errors.New("seven"), Code: 7}
}

func execURL(t *testing.T, s *Server, req *runtimeapi.ExecRequest) *url.URL {
	t.Helper()
	r, err := s.Exec(req)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestExecBySPDY(t *testing.T) {
	for name, cfg := range map[string]Config{"http": {}, "https": {TLS: &TLS{}}, "advertised": {Advertise: "localhost"}} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, cfg, fake{exec: cat})
			u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"a", "b"}, Stdin: true, Stdout: true, Stderr: true})
			ex, err := remotecommand.NewSPDYExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "POST", u)
			if err != nil {
				t.Fatal(err)
			}
			big := strings.Repeat("0123456789abcdef", 1<<16)
			var out, errs bytes.Buffer
			err = ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errs})
			var code clientexec.CodeExitError
			if !errors.As(err, &code) || code.Code != 7 {
				t.Errorf("exit: %v", err)
			}
			if out.String() != big || errs.String() != "a b false" {
				t.Errorf("%d bytes of %d, %q", out.Len(), len(big), errs.String())
			}
		})
	}
}

// onTerminal is what a program says on a terminal that changes its size and types nothing.
func onTerminal(t *testing.T, ex remotecommand.Executor) string {
	t.Helper()
	in, hold := io.Pipe()
	defer hold.Close()
	var out bytes.Buffer
	if err := ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: &out, Tty: true, TerminalSizeQueue: &queue{}}); err != nil {
		t.Errorf("%q, %v", out.String(), err)
	}
	return out.String()
}

func TestTerminalSizes(t *testing.T) {
	s := listen(t, Config{}, fake{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
		for z := range s.Resize {
			fmt.Fprintf(s.Out, "%dx%d;", z.Width, z.Height)
			if z.Width == 3 {
				return nil
			}
		}
		return nil
	}})
	u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"a"}, Tty: true, Stdout: true, Stdin: true})
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	if out := onTerminal(t, ex); out != "1x2;2x3;3x4;" {
		t.Errorf("%q", out)
	}
}

type queue struct{ n uint16 }

func (q *queue) Next() *remotecommand.TerminalSize {
	if q.n++; q.n > 3 {
		return nil
	}
	return &remotecommand.TerminalSize{Width: q.n, Height: q.n + 1}
}

// dialWS connects by WebSocket.
func dialWS(t *testing.T, address string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}, HandshakeTimeout: 2 * time.Minute}
	conn, resp, err := d.DialContext(t.Context(), strings.Replace(address, "http://", "ws://", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	return conn
}

// collect reads until the other side closes, and returns what came by channel.
func collect(conn *websocket.Conn) map[byte]string {
	got := map[byte]string{}
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			return got
		}
		if len(b) > 0 {
			got[b[0]] += string(b[1:])
		}
	}
}

func TestExecByWebSocket(t *testing.T) {
	s := listen(t, Config{}, fake{exec: func(ctx context.Context, id string, cmd []string, s Streams) error {
		if s.In != nil {
			return errors.New("stdin was not asked for")
		}
		io.WriteString(s.Out, "out")
		return cat(ctx, id, cmd, s)
	}})
	u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true, Stderr: true})
	got := collect(dialWS(t, u.String()))
	if got[1] != "out" || got[2] != "x false" || !strings.Contains(got[3], `"reason":"ExitCode"`) && !strings.Contains(got[3], "NonZeroExitCode") {
		t.Errorf("%q", got)
	}
}

// Clients of today speak version 5, in which stdin can end.
func TestExecByNewWebSocket(t *testing.T) {
	s := listen(t, Config{TLS: &TLS{}}, fake{exec: cat})
	u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"a", "b"}, Stdin: true, Stdout: true, Stderr: true})
	ex, err := remotecommand.NewWebSocketExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	var out, errs bytes.Buffer
	err = ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errs})
	var code clientexec.CodeExitError
	if !errors.As(err, &code) || code.Code != 7 || out.String() != big || errs.String() != "a b false" {
		t.Errorf("%v, %d bytes of %d, %q", err, out.Len(), len(big), errs.String())
	}
}

func TestAttachByNewWebSocket(t *testing.T) {
	s := listen(t, Config{}, fake{attach: func(_ context.Context, id string, s Streams) error {
		z := <-s.Resize
		fmt.Fprintf(s.Out, "%s %dx%d", id, z.Width, z.Height)
		return nil
	}})
	r, err := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c", Tty: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	ex, err := remotecommand.NewWebSocketExecutor(&rest.Config{}, "GET", r.Url)
	if err != nil {
		t.Fatal(err)
	}
	if out := onTerminal(t, ex); out != "c 1x2" {
		t.Errorf("%q", out)
	}
}

// SPDY through a WebSocket, many connections through one.
func TestPortForwardTunnel(t *testing.T) {
	s := listen(t, Config{}, fake{forward: func(_ context.Context, id string, port int32, s io.ReadWriteCloser) error {
		b, err := io.ReadAll(s)
		fmt.Fprintf(s, "%s:%d %s", id, port, b)
		return err
	}})
	r, err := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p"})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(r.Url)
	d, err := portforward.NewSPDYOverWebsocketDialer(u, &rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.NewOnAddresses(d, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-over:
		t.Fatal(err)
	}
	ports, _ := pf.GetPorts()
	big := strings.Repeat("x", 1<<20)
	for range 3 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, big)
		conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(conn); string(got) != "p:80 "+big {
			t.Errorf("%d bytes", len(got))
		}
		conn.Close()
	}
	close(stop)
	if err := <-over; err != nil {
		t.Error(err)
	}
}

// A session ends with its connection, though neither side has anything to say.
func TestSilentSessionEndsWithItsClient(t *testing.T) {
	ended := make(chan string, 10)
	began := make(chan bool, 10)
	wait := func(what string) func(context.Context) error {
		return func(ctx context.Context) error {
			began <- true
			<-ctx.Done()
			ended <- what
			return ctx.Err()
		}
	}
	s := listen(t, Config{}, fake{
		exec: func(ctx context.Context, _ string, _ []string, _ Streams) error { return wait("exec")(ctx) },
		attach: func(ctx context.Context, _ string, _ Streams) error {
			return wait("attach")(ctx)
		},
		forward: func(ctx context.Context, _ string, _ int32, _ io.ReadWriteCloser) error { return wait("forward")(ctx) },
	})
	expect := func(what string) {
		t.Helper()
		select {
		case got := <-ended:
			if got != what {
				t.Errorf("%s ended, not %s", got, what)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s outlives its client", what)
		}
	}
	exec, _ := s.Exec(&runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	attach, _ := s.Attach(&runtimeapi.AttachRequest{ContainerId: "c", Stdout: true, Stdin: true})
	forward, _ := s.PortForward(&runtimeapi.PortForwardRequest{PodSandboxId: "p", Port: []int32{80}})
	for what, u := range map[string]string{"exec": exec.Url, "attach": attach.Url, "forward": forward.Url} {
		conn := dialWS(t, u)
		<-began
		conn.UnderlyingConn().Close()
		expect(what)
	}
	exec, _ = s.Exec(&runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true})
	u, _ := url.Parse(exec.Url)
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	go ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
	<-began
	leave()
	expect("exec")
}

func TestTokens(t *testing.T) {
	s := listen(t, Config{TokenLife: 50 * time.Millisecond}, fake{exec: cat, attach: func(context.Context, string, Streams) error { return nil }})
	get := func(u string) int {
		t.Helper()
		r, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	req := &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"x"}, Stdout: true}
	u := execURL(t, s, req).String()
	if c := get(strings.Replace(u, "/exec/", "/attach/", 1)); c != http.StatusNotFound {
		t.Errorf("the token of an exec opens an attach: %d", c)
	}
	if r, err := http.Head(u); err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("HEAD: %v, %v", r, err)
	}
	if c := get(u); c != http.StatusForbidden && c != http.StatusBadRequest { // it is no upgrade
		t.Errorf("first use: %d", c)
	}
	if c := get(u); c != http.StatusNotFound {
		t.Errorf("second use: %d", c)
	}
	u = execURL(t, s, req).String()
	time.Sleep(100 * time.Millisecond)
	if c := get(u); c != http.StatusNotFound {
		t.Errorf("use after its time: %d", c)
	}
	if c := get(s.Base() + "/exec/"); c != http.StatusNotFound {
		t.Errorf("no token: %d", c)
	}
}

func TestTooManyWait(t *testing.T) {
	s := listen(t, Config{}, fake{})
	req := &runtimeapi.AttachRequest{ContainerId: "c", Stdout: true}
	for range maxWaiting {
		if _, err := s.Attach(req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Attach(req); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	s := listen(t, Config{}, fake{})
	for _, r := range []*runtimeapi.ExecRequest{
		{Cmd: []string{"x"}, Stdout: true}, {ContainerId: "c", Cmd: []string{"x"}},
		{ContainerId: "c", Cmd: []string{"x"}, Tty: true, Stdout: true, Stderr: true},
	} {
		if _, err := s.Exec(r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
	for _, r := range []*runtimeapi.PortForwardRequest{{}, {PodSandboxId: "p", Port: []int32{80, 0}}, {PodSandboxId: "p", Port: []int32{65536}}} {
		if _, err := s.PortForward(r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// Certificates from files: read again when they change, clients without one kept out.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write := func(stamp time.Time) *x509.Certificate {
		t.Helper()
		pair, err := selfSigned()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
			if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		os.Chtimes(cert, stamp, stamp)
		c, _ := x509.ParseCertificate(pair.Certificate[0])
		return c
	}
	first := write(time.Unix(1e9, 0))
	s := listen(t, Config{TLS: &TLS{CertFile: cert, KeyFile: key}}, fake{})
	shown := func() *x509.Certificate {
		t.Helper()
		conn, err := tls.Dial("tcp", s.base.Host, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0]
	}
	if !shown().Equal(first) {
		t.Error("another certificate than the file's")
	}
	second := write(time.Unix(2e9, 0))
	if !shown().Equal(second) {
		t.Error("the new certificate is not served")
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !shown().Equal(second) {
		t.Error("a broken file replaced a good certificate")
	}
	write(time.Unix(3e9, 0))
	s = listen(t, Config{TLS: &TLS{CertFile: cert, KeyFile: key, ClientCAFile: cert}}, fake{})
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if r, err := client.Get(s.Base() + "/exec/x"); err == nil {
		t.Errorf("a client without certificate got %d", r.StatusCode)
	}
	for _, bad := range []*TLS{{CertFile: cert}, {CertFile: "/none", KeyFile: "/none"}, {ClientCAFile: key}} {
		if s, err := Listen(Config{TLS: bad}, fake{}, slog.New(slog.DiscardHandler)); err == nil {
			s.Close()
			t.Errorf("%+v was taken", bad)
		}
	}
}
