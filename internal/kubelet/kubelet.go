package kubelet

import (
	"context"
	"net/http"
)

// Kubelet is a node agent. Make one with New, then Run it.
type Kubelet struct {
	cfg Config
}

// New checks cfg and reads what is persisted below cfg.Root. It starts nothing.
func New(cfg Config) (*Kubelet, error) { return &Kubelet{cfg: cfg}, nil }

// Run keeps the pods until ctx ends or a client asks for the daemon's shutdown, then returns nil; containers
// run on. It serves the node API at cfg.Socket.
func (k *Kubelet) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Handler is the node API.
func (k *Kubelet) Handler() http.Handler { return http.NotFoundHandler() }
