package node

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/trace"
)

// activity knows when somebody last wanted something.
type activity struct {
	calls atomic.Int64
	last  atomic.Int64 // nanoseconds since 1970
}

// begin counts a call; the function that it returns ends it.
func (a *activity) begin() func() {
	a.calls.Add(1)
	return func() {
		a.last.Store(time.Now().UnixNano())
		a.calls.Add(-1)
	}
}

// quiet is for how long there has been no call.
func (a *activity) quiet(now time.Time) time.Duration {
	if a.calls.Load() > 0 {
		return 0
	}
	return now.Sub(time.Unix(0, a.last.Load()))
}

// handler is what node.sock serves: the kubelet's node API, and below /node/ our own.
func (n *Node) handler() http.Handler {
	mux := http.NewServeMux()
	kubelet := n.kubeletAPI()
	mux.Handle("/", kubelet)
	n.monitor(mux)
	mux.HandleFunc("GET /node/info", n.serveInfo)
	n.imageRoutes(mux)
	mux.HandleFunc("GET /node/inventory", n.serveInventory)
	mux.HandleFunc("POST /node/repair", n.serveInventory)
	mux.HandleFunc("GET /node/network", n.serveNetwork)
	mux.HandleFunc("GET /node/network/check", n.serveNetworkCheck)
	mux.HandleFunc("GET /node/trace/{namespace}/{pod}", n.serveTrace)
	mux.HandleFunc("POST /node/checkpoint/{namespace}/{pod}", n.serveCheckpoint)
	mux.HandleFunc("POST /shutdown", func(w http.ResponseWriter, r *http.Request) {
		// The kubelet counts its own pods; sandboxes of another CRI client keep the node up as well.
		if r.URL.Query().Get("ifIdle") == "true" && !n.idle() {
			refuse(w, http.StatusConflict, errors.New("the node has sandboxes"))
			return
		}
		kubelet.ServeHTTP(w, r)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer n.active.begin()()
		mux.ServeHTTP(w, r)
	})
}

// kubeletAPI is the kubelet's node API, or where there is none, who to ask instead.
func (n *Node) kubeletAPI() http.Handler {
	if n.kubelet != nil {
		return n.kubelet.Handler()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		err := apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "pods"}, "ask for")
		err.ErrStatus.Message = "the daemon on " + n.cfg.Run + " serves the CRI to another kubelet (berth cri), so it takes no pods from here: look at them with crictl, or give this command another --root and --run"
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(err.ErrStatus.Code))
		json.NewEncoder(w).Encode(err.ErrStatus)
	})
}

// refuse answers with a sentence.
func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(Step{Error: err.Error()})
}

// answer sends v, or refuses with err.
func answer(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, image.ErrNotFound):
		refuse(w, http.StatusNotFound, err)
	case err != nil:
		refuse(w, http.StatusInternalServerError, err)
	default:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
}

func (n *Node) serveInfo(w http.ResponseWriter, _ *http.Request) {
	answer(w, Info{
		Version: n.version, Pid: os.Getpid(), Started: n.started,
		Root: n.cfg.Root, Run: n.cfg.Run, CRI: n.cfg.CRISocket, Names: n.cfg.Names,
	}, nil)
}

func (n *Node) serveInventory(w http.ResponseWriter, r *http.Request) {
	repair := r.Method == http.MethodPost
	if repair {
		io.Copy(io.Discard, r.Body)
	}
	items, err := n.inventory(r.Context(), repair)
	answer(w, items, err)
}

// serveTrace lays the kubelet's spans of a pod's start beside those of its runtime, shim and engine.
func (n *Node) serveTrace(w http.ResponseWriter, r *http.Request) {
	namespace, pod := r.PathValue("namespace"), r.PathValue("pod")
	var spans []trace.Span
	known := false
	if n.kubelet != nil {
		spans, known = n.kubelet.Trace(namespace, pod)
	}
	for _, sb := range n.runtime.Sandboxes() {
		if sb.Spec.Namespace != namespace || sb.Spec.Name != pod {
			continue
		}
		more, err := n.runtime.Trace(r.Context(), sb.ID)
		if err != nil {
			answer(w, nil, err)
			return
		}
		known, spans = true, append(spans, more...)
	}
	if !known {
		refuse(w, http.StatusNotFound, errors.New("this node has no pod "+namespace+"/"+pod))
		return
	}
	answer(w, Trace{Pod: namespace + "/" + pod, Spans: spans}, nil)
}
