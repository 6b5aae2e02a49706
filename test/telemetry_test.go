package test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// spans is an OTLP collector.
type spans struct {
	mu  sync.Mutex
	all []*otlp.Span
}

func (s *spans) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	var req collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(b, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			s.all = append(s.all, ss.Spans...)
		}
	}
}

// find returns a span, and the names of those that it is in, from the inside out.
func (s *spans) find(name string) (span *otlp.Span, inside []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	byID := map[string]*otlp.Span{}
	for _, sp := range s.all {
		byID[string(sp.SpanId)] = sp
		if sp.Name == name && span == nil {
			span = sp
		}
	}
	for p := span; p != nil; {
		if p = byID[string(p.ParentSpanId)]; p != nil {
			inside = append(inside, p.Name)
		}
	}
	return span, inside
}

func get(t *testing.T, url string) (string, int) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), resp.StatusCode
}

// A pod's start as monitoring sees it: numbers, health, and a span for each step, shim and engine included.
func TestMonitoring(t *testing.T) {
	m := newMachine(t)
	sink := &spans{}
	srv := httptest.NewServer(sink)
	defer srv.Close()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	d := m.criDaemon(nil, "--config", m.file("config.toml", "[metrics]\naddress = \""+address+"\"\n[tracing]\nendpoint = \""+srv.URL+"\"\n"))
	c := dialCRI(t, m.criSocket())
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	c.ctx = metadata.AppendToOutgoingContext(c.ctx, "traceparent", "00-"+traceID+"-b7ad6b7169203331-01")
	pod, _ := c.runPod("watched", "demo", "show", "--wait", "1h")
	c.PullImage(c.ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: fmt.Sprintf("127.0.0.1:%d/x:1", freePort(t))}})

	if body, code := get(t, "http://"+address+"/healthz"); code != 200 || body != "ok" {
		t.Errorf("/healthz: %d %s", code, body)
	}
	numbers, _ := get(t, "http://"+address+"/metrics")
	for _, want := range []string{
		`berth_cri_request_duration_seconds_count{code="OK",method="RunPodSandbox"} 1`, `berth_pods{state="ready"} 1`, `berth_containers{state="running"} 1`,
		`berth_shims{state="alive"} `, `berth_image_pull_duration_seconds_count{result="error"} 1`, "berth_images 1", "berth_image_pull_bytes_total ", "berth_event_log_last ",
		"berth_leaks_repaired_total 0", "berth_build_info{version=", "process_resident_memory_bytes ", "go_goroutines ",
	} {
		if !strings.Contains(numbers, want) {
			t.Errorf("/metrics lacks %s:\n%s", want, numbers)
		}
	}
	for name, inside := range map[string]string{
		"cri.RunPodSandbox": "", "network.attach": "cri.RunPodSandbox", "image.prepare": "cri.CreateContainer",
		"shim.create": "cri.StartContainer", "engine.clone": "cri.StartContainer", "engine.execute": "cri.StartContainer",
	} {
		m.eventually("a span "+name+" arrives", func() bool { s, _ := sink.find(name); return s != nil })
		s, in := sink.find(name)
		if inside != "" && (len(in) == 0 || in[len(in)-1] != inside) {
			t.Errorf("%s is in %v, want it in %s", name, in, inside)
		}
		if fmt.Sprintf("%x", s.TraceId) != traceID {
			t.Errorf("%s is in the trace %x, not in the caller's", name, s.TraceId)
		}
	}
	c.removePod(pod)
	d.signal(syscall.SIGTERM)
	if r := d.wait(); r.code != 0 {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}
