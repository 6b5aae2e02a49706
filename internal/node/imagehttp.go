package node

import (
	"encoding/json"
	"net/http"

	"github.com/11f9778f/berth/internal/image"
)

// imageRoutes are the paths of the image store.
func (n *Node) imageRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /node/images", n.serveImages)
	mux.HandleFunc("GET /node/image", n.serveImage)
	mux.HandleFunc("DELETE /node/image", n.serveRemoveImage)
	mux.HandleFunc("GET /node/image/explain", n.serveExplain)
	mux.HandleFunc("POST /node/images/pull", n.servePull)
	mux.HandleFunc("POST /node/images/import", n.serveImport)
}

func (n *Node) serveImages(w http.ResponseWriter, _ *http.Request) {
	list := []image.Image{}
	for _, i := range n.store.List() {
		list = append(list, *i)
	}
	answer(w, list, nil)
}

func (n *Node) serveImage(w http.ResponseWriter, r *http.Request) {
	img, err := n.store.Get(r.URL.Query().Get("ref"))
	answer(w, img, err)
}

func (n *Node) serveRemoveImage(w http.ResponseWriter, r *http.Request) {
	ref := r.URL.Query().Get("ref")
	_, err := n.store.Store.Get(ref) // to remove what is not there is no error for the store; for a person it is
	if err == nil {
		err = n.store.Remove(r.Context(), ref)
	}
	answer(w, struct{}{}, err)
}

func (n *Node) servePull(w http.ResponseWriter, r *http.Request) {
	n.steps(w, func(progress func(image.Progress)) ([]*image.Image, error) {
		img, err := n.store.Pull(r.Context(), r.URL.Query().Get("ref"), image.PullOptions{Progress: progress})
		return []*image.Image{img}, err
	})
}

func (n *Node) serveImport(w http.ResponseWriter, r *http.Request) {
	n.steps(w, func(progress func(image.Progress)) ([]*image.Image, error) {
		return n.store.Import(r.Context(), r.Body, image.ImportOptions{Name: r.URL.Query().Get("name"), Progress: progress})
	})
}

// steps sends how far something is, and in the last line what came of it.
func (n *Node) steps(w http.ResponseWriter, do func(func(image.Progress)) ([]*image.Image, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex() // an import is still being read while its progress is told
	enc := json.NewEncoder(w)
	send := func(s Step) {
		enc.Encode(s)
		rc.Flush()
	}
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

func (n *Node) serveExplain(w http.ResponseWriter, r *http.Request) {
	e, err := n.store.Explain(r.Context(), r.URL.Query().Get("ref"), image.PullOptions{})
	answer(w, e, err)
}
