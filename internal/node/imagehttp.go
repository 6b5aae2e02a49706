package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/11f9778f/berth/internal/image"
)

// imageRoutes are the paths of the image store. All take the namespace, or else work in Kubernetes'.
func (n *Node) imageRoutes(mux *http.ServeMux) {
	for pattern, serve := range map[string]func(*images, http.ResponseWriter, *http.Request){
		"GET /node/images":         n.serveImages,
		"GET /node/image":          n.serveImage,
		"DELETE /node/image":       n.serveRemoveImage,
		"GET /node/image/explain":  n.serveExplain,
		"GET /node/image/users":    n.serveUsers,
		"POST /node/image/tag":     n.serveTag,
		"DELETE /node/image/tag":   n.serveUntag,
		"POST /node/image/pin":     n.servePin,
		"POST /node/image/push":    n.servePush,
		"GET /node/images/export":  n.serveExport,
		"POST /node/images/prune":  n.servePrune,
		"POST /node/images/pull":   n.servePull,
		"POST /node/images/import": n.serveImport,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			store, err := n.store.in(r.URL.Query().Get("namespace"))
			if err != nil {
				refuse(w, http.StatusBadRequest, err)
				return
			}
			serve(store, w, r)
		})
	}
}

func (n *Node) serveImages(s *images, w http.ResponseWriter, r *http.Request) {
	list := []image.Image{}
	namespaces := []string{s.Namespace()}
	if r.URL.Query().Get("all") == "true" {
		namespaces = s.Namespaces()
	}
	for _, name := range namespaces {
		in, err := s.In(name)
		if err != nil {
			answer(w, nil, err)
			return
		}
		for _, i := range in.List() {
			list = append(list, *i)
		}
	}
	answer(w, list, nil)
}

func (n *Node) serveImage(s *images, w http.ResponseWriter, r *http.Request) {
	img, err := s.Get(r.URL.Query().Get("ref"))
	answer(w, img, err)
}

func (n *Node) serveRemoveImage(s *images, w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("ref")
	_, err := s.Store.Get(ref) // to remove what is not there is no error for the store; for a person it is
	if err == nil {
		err = s.Remove(r.Context(), ref)
	}
	answer(w, struct{}{}, err)
}

func (n *Node) servePull(s *images, w http.ResponseWriter, r *http.Request) {
	n.steps(w, func(progress func(image.Progress)) ([]*image.Image, error) {
		img, err := s.Pull(r.Context(), r.URL.Query().Get("ref"), image.PullOptions{Progress: progress})
		return []*image.Image{img}, err
	})
}

func (n *Node) serveImport(s *images, w http.ResponseWriter, r *http.Request) {
	n.steps(w, func(progress func(image.Progress)) ([]*image.Image, error) {
		return s.Import(r.Context(), r.Body, image.ImportOptions{Name: r.URL.Query().Get("name"), Progress: progress})
	})
}

// stream begins an answer of one line after the other.
func stream(w http.ResponseWriter) (send func(Step)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex() // an import is still being read while its progress is told
	enc := json.NewEncoder(w)
	return func(s Step) {
		enc.Encode(s)
		rc.Flush()
	}
}

// steps sends how far something is, and in the last line what came of it.
func (n *Node) steps(w http.ResponseWriter, do func(func(image.Progress)) ([]*image.Image, error)) {
	send := stream(w)
	images, err := do(func(p image.Progress) { send(Step{Progress: &p}) })
	if err != nil {
		send(Step{Error: err.Error()})
		return
	}
	last := Step{Images: []image.Image{}}
	for _, i := range images {
		last.Images = append(last.Images, *i)
	}
	send(last)
}

func (n *Node) serveExplain(s *images, w http.ResponseWriter, r *http.Request) {
	e, err := s.Explain(r.Context(), r.URL.Query().Get("ref"), image.PullOptions{})
	answer(w, e, err)
}

// serveUsers tells which containers have an image.
func (n *Node) serveUsers(s *images, w http.ResponseWriter, r *http.Request) {
	img, err := s.Store.Get(r.URL.Query().Get("ref"))
	if err != nil {
		answer(w, nil, err)
		return
	}
	users := s.Users(img.ID)
	for i, id := range users {
		users[i] = n.ownerName(id)
	}
	answer(w, users, nil)
}

func (n *Node) serveTag(s *images, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if _, err := s.Get(q.Get("ref")); err != nil { // this makes the demo image
		answer(w, nil, err)
		return
	}
	img, err := s.Tag(r.Context(), q.Get("ref"), q.Get("name"))
	answer(w, img, err)
}

func (n *Node) serveUntag(s *images, w http.ResponseWriter, r *http.Request) {
	answer(w, struct{}{}, s.Untag(r.Context(), r.URL.Query().Get("name")))
}

func (n *Node) servePin(s *images, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	img, err := s.Pin(r.Context(), q.Get("ref"), q.Get("pin") != "false")
	answer(w, img, err)
}

func (n *Node) servePush(s *images, w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	send := stream(w)
	pushed, err := s.Push(r.Context(), q.Get("ref"), image.PushOptions{
		To: q.Get("to"), Progress: func(done, all int64) { send(Step{Sent: done, All: all}) },
	})
	if err != nil {
		send(Step{Error: err.Error()})
		return
	}
	send(Step{Pushed: pushed})
}

// trailerError carries what went wrong after the first byte.
const trailerError = "Berth-Error"

func (n *Node) serveExport(s *images, w http.ResponseWriter, r *http.Request) {
	refs := r.URL.Query()["ref"]
	for _, ref := range refs {
		if _, err := s.Get(ref); err != nil {
			answer(w, nil, err)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	w.Header().Set("Trailer", trailerError)
	if err := s.Export(r.Context(), w, refs...); err != nil {
		w.Header().Set(trailerError, strconv.Quote(err.Error()))
	}
}

func (n *Node) servePrune(s *images, w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	q := r.URL.Query()
	o := image.PruneOptions{
		Untagged: q.Get("untagged") == "true", DryRun: q.Get("dry-run") == "true",
		Keep: func(img *image.Image) bool { return img.Named(n.cfg.Pinned) },
	}
	for key, to := range map[string]*int{"high": &o.High, "low": &o.Low} {
		if v, err := strconv.Atoi(q.Get(key)); err == nil {
			*to = v
		} else if q.Has(key) {
			refuse(w, http.StatusBadRequest, fmt.Errorf("%s: %q is no number", key, q.Get(key)))
			return
		}
	}
	if v, err := time.ParseDuration(q.Get("unused")); err == nil {
		o.Unused = v
	} else if q.Has("unused") {
		refuse(w, http.StatusBadRequest, fmt.Errorf("unused: %w", err))
		return
	}
	p, err := s.Prune(r.Context(), o)
	answer(w, p, err)
}
