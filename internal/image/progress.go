package image

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// layerState is how far a layer is; whoever works on it writes, several pulls may read.
type layerState struct {
	digest     digest.Digest
	size       int64
	phase      atomic.Pointer[Phase]
	downloaded atomic.Int64
	unpacked   atomic.Int64
}

func newLayerState(d digest.Digest, size int64) *layerState {
	s := &layerState{digest: d, size: size}
	s.set(PhaseWaiting)
	return s
}

func (s *layerState) set(p Phase) { s.phase.Store(&p) }

func (s *layerState) read() LayerProgress {
	return LayerProgress{Digest: s.digest, Phase: *s.phase.Load(), Downloaded: s.downloaded.Load(), Size: s.size, Unpacked: s.unpacked.Load()}
}

// reporter calls one pull's Progress from one goroutine. A nil reporter reports nothing.
type reporter struct {
	call func(Progress)
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	ref    string
	phase  Phase
	layers []*layerState
}

// Received is how many bytes of layers have come from registries and archives since Open, those of pulls under way too.
func (s *Store) Received() int64 { return s.received.Load() }

const reportEvery = 100 * time.Millisecond

func newReporter(ref string, call func(Progress)) *reporter {
	if call == nil {
		return nil
	}
	r := &reporter{call: call, ref: ref, phase: PhaseResolving, stop: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *reporter) run() {
	defer close(r.done)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		r.call(r.read())
		select {
		case <-tick.C:
		case <-r.stop:
			r.call(r.read())
			return
		}
	}
}

func (r *reporter) read() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{Ref: r.ref, Phase: r.phase, Layers: make([]LayerProgress, len(r.layers))}
	for i, l := range r.layers {
		p.Layers[i] = l.read()
	}
	return p
}

// pulling says which layers are on their way.
func (r *reporter) pulling(layers []*layerState) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase, r.layers = PhasePulling, slices.Clone(layers)
}

// replace shows another pull's work on layer i instead.
func (r *reporter) replace(i int, l *layerState) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.layers[i] = l
}

// close reports the end and waits until that was heard.
func (r *reporter) close(err error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.phase = PhaseDone
	if err != nil {
		r.phase = PhaseFailed
	}
	r.mu.Unlock()
	close(r.stop)
	<-r.done
}
