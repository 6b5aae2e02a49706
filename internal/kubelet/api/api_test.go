package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fakeNode answers with what it was asked.
type fakeNode struct {
	logs  LogOptions
	grace *int64
	err   error
}

func (n *fakeNode) Apply(_ context.Context, m []byte) ([]*v1.Pod, error) {
	return []*v1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: string(m[:min(len(m), 5)])}}}, n.err
}
func (n *fakeNode) Pods() []*v1.Pod                     { return nil }
func (n *fakeNode) Pod(_, name string) (*v1.Pod, error) { return nil, errors.New("disk full") }
func (n *fakeNode) Shutdown(bool) error                 { return n.err }
func (n *fakeNode) Delete(_ context.Context, _, name string, grace *int64) (*v1.Pod, error) {
	n.grace = grace
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil
}
func (n *fakeNode) Events(ctx context.Context, since uint64, fn func(Event) error) error {
	for i := since + 1; ; i++ {
		if err := fn(Event{Seq: i, Type: PodAdded}); err != nil {
			return err
		}
	}
}
func (n *fakeNode) Logs(_ context.Context, _, _, container string, o LogOptions, stdout, _ io.Writer) error {
	n.logs = o
	if container == "late" {
		io.WriteString(stdout, "half")
		return errors.New("broken")
	}
	if n.err == nil {
		io.WriteString(stdout, "line\n")
	}
	return n.err
}

func serve(t *testing.T, n Node) *Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth")
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s")
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(sock); err == nil || !strings.Contains(err.Error(), "another node serves there") {
		t.Errorf("a second node at the socket: %v", err)
	}
	if info, _ := os.Stat(sock); info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, NewHandler(n)) }()
	c := NewClient(sock)
	t.Cleanup(func() {
		c.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return c
}

func TestRoundTrips(t *testing.T) {
	n := &fakeNode{}
	c := serve(t, n)
	if pods, err := c.Apply(t.Context(), []byte("hello")); err != nil || len(pods) != 1 || pods[0].Name != "hello" {
		t.Errorf("apply: %v, %v", pods, err)
	}
	if pods, err := c.Pods(t.Context()); err != nil || len(pods) != 0 {
		t.Errorf("pods: %v, %v", pods, err)
	}
	grace := int64(7)
	if _, err := c.Delete(t.Context(), "ns", "p", &grace); err != nil || *n.grace != 7 {
		t.Errorf("delete: %v, %v", n.grace, err)
	}
	var seen []uint64
	err := c.Events(t.Context(), 41, func(e Event) error {
		seen = append(seen, e.Seq)
		if len(seen) == 3 {
			return ErrStop
		}
		return nil
	})
	if err != nil || len(seen) != 3 || seen[0] != 42 || seen[2] != 44 {
		t.Errorf("events: %v, %v", seen, err)
	}
	var out bytes.Buffer
	tail := int64(3)
	if err := c.Logs(t.Context(), "ns", "p", "c", LogOptions{Follow: true, Timestamps: true, Previous: true, TailLines: &tail}, &out); err != nil {
		t.Error(err)
	}
	if out.String() != "line\n" || !n.logs.Follow || !n.logs.Timestamps || !n.logs.Previous || *n.logs.TailLines != 3 || n.logs.LimitBytes != nil {
		t.Errorf("logs: %q, asked for %+v", out.String(), n.logs)
	}
}

func TestErrors(t *testing.T) {
	n := &fakeNode{err: apierrors.NewConflict(v1.Resource("pods"), "p", errors.New("it is there"))}
	c := serve(t, n)
	if _, err := c.Apply(t.Context(), nil); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "it is there") {
		t.Errorf("apply: %v", err)
	}
	if err := c.Logs(t.Context(), "a", "b", "c", LogOptions{}, io.Discard); !apierrors.IsConflict(err) {
		t.Errorf("logs: %v", err)
	}
	if err := c.Logs(t.Context(), "a", "b", "late", LogOptions{}, io.Discard); err == nil {
		t.Error("logs that broke off look whole")
	}
	if _, err := c.Pod(t.Context(), "a", "b"); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("pod: %v", err)
	}
	if _, err := c.Apply(t.Context(), make([]byte, MaxManifest+1)); err == nil {
		t.Error("the client sends what is too large")
	}
}

func TestBadRequests(t *testing.T) {
	h := NewHandler(&fakeNode{})
	for _, c := range []struct {
		method, path string
		body         io.Reader
		code         int
		message      string
	}{
		{"POST", "/manifests", io.LimitReader(zeros{}, MaxManifest+1), 413, "larger than 4 MiB"},
		{"DELETE", "/pods/a/b?gracePeriodSeconds=-1", nil, 400, "no number of at least 0"},
		{"GET", "/events?since=x", nil, 400, "is no number"},
		{"GET", "/containerLogs/a/b/c?sinceTime=yesterday", nil, 400, "no RFC 3339 time"},
		{"PUT", "/pods", nil, 405, "Method Not Allowed"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, c.body))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.message) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
