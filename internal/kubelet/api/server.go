package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NewHandler serves n.
func NewHandler(n Node) http.Handler {
	s := &server{n}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /pods/{namespace}/{name}", s.pod)
	mux.HandleFunc("DELETE /pods/{namespace}/{name}", s.delete)
	mux.HandleFunc("POST /manifests", s.apply)
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /containerLogs/{namespace}/{name}/{container}", s.logs)
	mux.HandleFunc("POST /shutdown", s.shutdown)
	return mux
}

// Listen listens at a unix socket that only its owner may use. What a dead daemon left there is replaced; a
// living one's is an error.
func Listen(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen at %s: another node serves there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Serve serves h until ctx ends; streams under way are ended. It closes l.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() {
		// Answers under way, that to the shutdown itself among them, get a moment.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(late) != nil {
			srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type server struct{ node Node }

func (s *server) pods(w http.ResponseWriter, _ *http.Request) { answerList(w, s.node.Pods()) }

func (s *server) pod(w http.ResponseWriter, r *http.Request) {
	pod, err := s.node.Pod(r.PathValue("namespace"), r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, typed(pod))
}

func (s *server) apply(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxManifest))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		fail(w, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the manifest is larger than %d MiB", MaxManifest>>20)))
		return
	}
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	pods, err := s.node.Apply(r.Context(), data)
	if err != nil {
		fail(w, err)
		return
	}
	answerList(w, pods)
}

func (s *server) delete(w http.ResponseWriter, r *http.Request) {
	grace, err := number(r, "gracePeriodSeconds")
	if err != nil {
		fail(w, err)
		return
	}
	pod, err := s.node.Delete(r.Context(), r.PathValue("namespace"), r.PathValue("name"), grace)
	if err != nil {
		fail(w, err)
		return
	}
	answer(w, typed(pod))
}

func (s *server) shutdown(w http.ResponseWriter, r *http.Request) {
	if err := s.node.Shutdown(r.URL.Query().Get("ifIdle") == "true"); err != nil {
		fail(w, err)
		return
	}
	answer(w, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess})
}

// patience is how long a reader of a stream may leave what was written to it unread, before it is cut off.
const patience = time.Minute

func (s *server) events(w http.ResponseWriter, r *http.Request) {
	since := uint64(0)
	if v := r.URL.Query().Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			fail(w, apierrors.NewBadRequest(fmt.Sprintf("since=%q is no number", v)))
			return
		}
		since = n
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := newStream(w)
	out.flush()
	enc := json.NewEncoder(out)
	// The connection ends with the client, or when the node does: there is no other error to report.
	_ = s.node.Events(r.Context(), since, func(e Event) error { return enc.Encode(e) })
}

func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	o, err := logOptions(r)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	out := newStream(w)
	if o.Follow {
		// The header goes out with the first line, or at once if that takes long.
		timer := time.AfterFunc(50*time.Millisecond, out.flush)
		defer func() { timer.Stop(); out.end() }()
	}
	err = s.node.Logs(r.Context(), r.PathValue("namespace"), r.PathValue("name"), r.PathValue("container"), o, out, out)
	if err != nil && r.Context().Err() == nil {
		out.fail(err)
	}
}

func logOptions(r *http.Request) (o LogOptions, err error) {
	q := r.URL.Query()
	on := func(key string) bool { v := q.Get(key); return q.Has(key) && v != "false" && v != "0" }
	o.Follow, o.Previous, o.Timestamps = on("follow"), on("previous"), on("timestamps")
	if o.TailLines, err = number(r, "tailLines"); err != nil {
		return o, err
	}
	if o.LimitBytes, err = number(r, "limitBytes"); err != nil {
		return o, err
	}
	seconds, err := number(r, "sinceSeconds")
	if err != nil {
		return o, err
	}
	if seconds != nil {
		o.Since = time.Now().Add(-time.Duration(*seconds) * time.Second)
	}
	if v := q.Get("sinceTime"); v != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, v); err != nil {
			return o, apierrors.NewBadRequest(fmt.Sprintf("sinceTime=%q is no RFC 3339 time", v))
		}
	}
	return o, nil
}

// number reads a parameter that is a number of at least 0; nil if it is not there.
func number(r *http.Request, key string) (*int64, error) {
	v := r.URL.Query().Get(key)
	if v == "" {
		return nil, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s=%q is no number of at least 0", key, v))
	}
	return &n, nil
}

// stream writes through at once. A reader that takes nothing for a while is cut off.
type stream struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	c     *http.ResponseController
	begun bool
	ended bool // w is the server's again
}

func newStream(w http.ResponseWriter) *stream {
	return &stream{w: w, c: http.NewResponseController(w)}
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if err := s.c.SetWriteDeadline(time.Now().Add(patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := s.w.Write(p)
	if err == nil {
		err = s.c.Flush()
	}
	return n, err
}

func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.begun = true
	_ = s.c.Flush() // a broken connection shows at the next write
}

// end makes a flush that comes late do nothing.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
}

// fail answers an error if nothing was answered yet, and breaks the connection off otherwise, so that the
// reader does not take what it got for all.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		panic(http.ErrAbortHandler)
	}
	s.begun = true
	fail(s.w, err)
}

func typed(p *v1.Pod) *v1.Pod {
	out := *p
	out.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	return &out
}

func answerList(w http.ResponseWriter, pods []*v1.Pod) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	for _, p := range pods {
		list.Items = append(list.Items, *typed(p))
	}
	answer(w, list)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}

// fail answers a metav1.Status with its code.
func fail(w http.ResponseWriter, err error) {
	var s apierrors.APIStatus
	st := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: err.Error()}
	if errors.As(err, &s) {
		st = s.Status()
	}
	st.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(st.Code))
	_ = json.NewEncoder(w).Encode(st)
}
