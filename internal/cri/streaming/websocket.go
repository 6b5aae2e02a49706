package streaming

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// What cri-streaming does not speak, and clients of today do: version 5 of exec and attach over WebSocket, in
// which a client can close its stdin, and port-forward as SPDY within a WebSocket.

// channelProtocol is version 5 of the remote command protocol: version 4 with a signal for the end of a channel
// (k8s.io/apimachinery/pkg/util/remotecommand, StreamProtocolV5Name).
const channelProtocol = "v5.channel.k8s.io"

// Channels of the remote command protocols.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
)

func channels(o remotecommand.Options) []wsstream.ChannelType {
	out := []wsstream.ChannelType{
		wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.IgnoreChannel, wsstream.WriteChannel, wsstream.ReadChannel,
	}
	if o.Stdin {
		out[channelStdin] = wsstream.ReadChannel
	}
	if o.Stdout {
		out[channelStdout] = wsstream.WriteChannel
	}
	if o.Stderr {
		out[channelStderr] = wsstream.WriteChannel
	}
	return out
}

// serveChannels serves one exec or attach by version 5.
func (s *Server) serveChannels(w http.ResponseWriter, r *http.Request, o remotecommand.Options, run func(context.Context, Streams) error) {
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{channelProtocol: {Binary: true, Channels: channels(o)}})
	conn.SetIdleTimeout(s.cfg.IdleTimeout)
	_, c, err := conn.Open(w, r)
	if err != nil {
		s.log.Debug("a WebSocket client was refused", "error", err)
		return
	}
	defer conn.Close()
	sizes := make(chan remotecommand.TerminalSize)
	go readSizes(r.Context(), c[channelResize], sizes)
	a := adapter{rt: s.rt, opts: o}
	c[channelError].Write(nil) // tells the client that it is connected
	err = run(r.Context(), a.streams(c[channelStdin], c[channelStdout], c[channelStderr], sizes))
	b, err := json.Marshal(statusOf(err))
	if err == nil {
		_, err = c[channelError].Write(b)
	}
	if err != nil {
		s.log.Debug("the end of a stream could not be told", "error", err)
	}
}

// readSizes passes terminal sizes on until their stream or the session ends.
func readSizes(ctx context.Context, r io.Reader, sizes chan<- remotecommand.TerminalSize) {
	defer close(sizes)
	d := json.NewDecoder(r)
	for {
		var z remotecommand.TerminalSize
		if d.Decode(&z) != nil {
			return
		}
		select {
		case sizes <- z:
		case <-ctx.Done():
			return
		}
	}
}

// statusOf tells how a command ended, as clients of version 4 and 5 read it.
func statusOf(err error) metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(exit.ExitStatus())}}},
		}
	}
	return metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %v", err),
	}
}

// serveTunnel serves a port-forward whose SPDY connection goes through a WebSocket.
func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	u := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1}, HandshakeTimeout: 30 * time.Second,
		ReadBufferSize: 32 << 10, WriteBufferSize: 32 << 10,
	}
	ws, err := u.Upgrade(w, r, nil) // it tells the client of an error
	if err != nil {
		s.log.Debug("a WebSocket client was refused", "error", err)
		return
	}
	t := &tunnel{Conn: ws.NetConn(), ws: ws}
	defer t.Close()
	ws.SetReadLimit(maxTunnelMessage)
	inner := r.Clone(r.Context())
	inner.Header = http.Header{}
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	for p := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if inside, ok := strings.CutPrefix(strings.TrimSpace(p), portforward.WebsocketsSPDYTunnelingPrefix); ok {
			inner.Header.Add(httpstream.HeaderProtocolVersion, inside)
		}
	}
	serve(&tunnelWriter{conn: t, header: http.Header{}}, inner)
}

// maxTunnelMessage bounds a message of a tunnel in bytes; SPDY's frames are at most 16 MiB long.
const maxTunnelMessage = 17 << 20

// tunnelWriter takes the answer to an upgrade within a WebSocket that is upgraded already.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

// Header implements http.ResponseWriter.
func (w *tunnelWriter) Header() http.Header { return w.header }

// Write implements http.ResponseWriter: a refusal would stand here, and the end of the connection tells it.
func (w *tunnelWriter) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (w *tunnelWriter) WriteHeader(int) {}

// Hijack implements http.Hijacker.
func (w *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// tunnel is a connection made of a WebSocket's binary messages.
type tunnel struct {
	net.Conn
	ws   *websocket.Conn
	in   io.Reader // the message that is being read
	mu   sync.Mutex
	once sync.Once
}

// Read reads from one message after the other.
func (t *tunnel) Read(p []byte) (int, error) {
	for {
		if t.in == nil {
			kind, r, err := t.ws.NextReader()
			switch {
			case websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway):
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != websocket.BinaryMessage:
				return 0, errors.New("a tunnel carries binary messages only")
			}
			t.in = r
		}
		n, err := t.in.Read(p)
		if err == io.EOF {
			t.in, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write writes one message.
func (t *tunnel) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close says goodbye and closes the connection.
func (t *tunnel) Close() (err error) {
	t.once.Do(func() {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		t.ws.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)) // the client may be gone
		err = t.ws.Close()
	})
	return err
}
