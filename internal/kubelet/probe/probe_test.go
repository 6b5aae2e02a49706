package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Host != "app.test" || r.Header.Get("X-A") != "b" || r.URL.RawQuery != "q=1" {
				w.WriteHeader(418)
			}
		case "/here":
			http.Redirect(w, r, "/bad", http.StatusFound)
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/slow":
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Second):
			}
		default:
			http.Error(w, "broken", 500)
		}
	}))
	defer srv.Close()
	host, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	target := Target{PodIP: host, Container: &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}}
	for path, want := range map[string]string{
		"/ok?q=1": "", "/away": "", "/here": "500", "/bad": "broken", "/slow": "deadline exceeded",
	} {
		p := &v1.Probe{TimeoutSeconds: 1, ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("web"), Scheme: "HTTP",
			HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "app.test"}, {Name: "X-A", Value: "b"}}}}}
		good, msg := Run(t.Context(), p, target)
		if good != (want == "") || !strings.Contains(msg, want) {
			t.Errorf("%s: %v %q, want %q", path, good, msg, want)
		}
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	p := &v1.Probe{TimeoutSeconds: 1, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(port)}}}
	if good, msg := Run(t.Context(), p, Target{PodIP: "127.0.0.1"}); !good {
		t.Error(msg)
	}
	l.Close()
	if good, msg := Run(t.Context(), p, Target{PodIP: "127.0.0.1"}); good || !strings.Contains(msg, "refused") {
		t.Errorf("%v %q", good, msg)
	}
	if good, msg := Run(t.Context(), p, Target{}); good || msg != "the pod has no address yet" {
		t.Errorf("%v %q", good, msg)
	}
}

func TestExec(t *testing.T) {
	p := &v1.Probe{TimeoutSeconds: 2, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"check", "it"}}}}
	for _, c := range []struct {
		code int32
		err  error
		want string
	}{{0, nil, ""}, {3, nil, "check it: exit code 3: no"}, {0, errors.New("no such container"), "check it: no such container"}} {
		good, msg := Run(t.Context(), p, Target{Exec: func(_ context.Context, cmd []string, timeout time.Duration) ([]byte, int32, error) {
			if len(cmd) != 2 || timeout != 2*time.Second {
				t.Errorf("asked for %v within %v", cmd, timeout)
			}
			return []byte("no\n"), c.code, c.err
		}})
		if good != (c.want == "") || msg != c.want {
			t.Errorf("%v %q, want %q", good, msg, c.want)
		}
	}
}
