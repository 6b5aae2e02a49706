package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

// session is one `berth run`: it applies a manifest, shows what its pods do, and sees them off.
// One goroutine, run's, owns all of its fields; others talk to it by channels.
type session struct {
	c    *cli
	h    *handle
	o    runOptions
	stop *signals
	view *view

	events chan api.Event
	checks chan error // the outcome of --check
	logs   sync.WaitGroup
	began  time.Time
	pods   map[string]*tracked // by UID
	order  []string            // UIDs as in the manifest

	pulling map[string]bool // images: true while they are on their way
	checked bool
	failure error // why the run ends before its time
	removal string
}

// tracked is what the session knows of one pod.
type tracked struct {
	podName
	pod     v1.Pod
	phase   v1.PodPhase
	ready   bool
	started bool // every container has been started at least once
	removed bool
	follow  map[string]chan struct{} // by container: it was started
	code    int                      // exit code of the container that failed first
	network bool                     // the host ports have been told
}

func newSession(c *cli, h *handle, o runOptions, stop *signals) *session {
	return &session{
		c: c, h: h, o: o, stop: stop, view: newView(c, o.plain),
		events: make(chan api.Event, 64), checks: make(chan error, 1), pods: map[string]*tracked{}, pulling: map[string]bool{},
	}
}

// run returns when the pods are gone, or with --detach when they have been started.
func (s *session) run(ctx context.Context, manifest []byte) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.logs.Wait()
	defer cancel()
	s.began = time.Now()
	pods, err := s.h.Apply(ctx, manifest)
	if err != nil {
		return sentence(err)
	}
	if len(pods) == 0 {
		return fail("add a document with kind: Pod", "the manifest has no pod")
	}
	s.track(pods)
	go s.subscribe(ctx)
	first, again := s.stop.first, s.stop.again
	for !s.gone() {
		if s.o.detach && s.all(func(p *tracked) bool { return p.started || p.finishedPhase() }) && s.failure == nil {
			return s.left(ctx)
		}
		s.judge(ctx)
		select {
		case e := <-s.events:
			s.handle(ctx, e)
		case err := <-s.checks:
			s.afterCheck(err)
		case <-first:
			first = nil
			s.end(ctx, nil, "asked to end")
		case <-again:
			again = nil
			s.end(ctx, new(int64), "asked again: ending at once")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.waitLogs()
	return s.outcome()
}

// waitLogs gives the followers of logs the time to print what a container said last.
func (s *session) waitLogs() {
	done := make(chan struct{})
	go func() { s.logs.Wait(); close(done) }()
	for _, p := range s.pods {
		for _, c := range p.follow {
			close(c)
		}
		p.follow = nil
	}
	select {
	case <-done:
	case <-time.After(2 * time.Second):
	}
}

// track begins to watch the pods that were made.
func (s *session) track(pods []v1.Pod) {
	var names []string
	for _, p := range pods {
		t := &tracked{podName: nameOf(&p), pod: p, phase: p.Status.Phase, follow: map[string]chan struct{}{}}
		s.pods[string(p.UID)] = t
		s.order = append(s.order, string(p.UID))
		for _, ct := range append(append([]v1.Container(nil), p.Spec.InitContainers...), p.Spec.Containers...) {
			names = append(names, s.prefix(t, ct.Name, len(pods)))
		}
		s.view.note("pod %s is starting", t.podName)
	}
	s.view.reserve(names)
}

// prefix is what stands before a container's lines: with several pods the pod's name too.
func (s *session) prefix(p *tracked, container string, pods int) string {
	if pods > 1 {
		return p.podName.String() + "/" + container
	}
	return container
}

// subscribe follows the node's events. When the node dies on the way, it is started again and goes
// on where it was.
func (s *session) subscribe(ctx context.Context) {
	var since uint64
	for ctx.Err() == nil {
		err := s.h.Events(ctx, since, func(e api.Event) error {
			since = max(since, e.Seq)
			select {
			case s.events <- e:
				return nil
			case <-ctx.Done():
				return api.ErrStop
			}
		})
		if ctx.Err() != nil || err == nil {
			return
		}
		if !answers(s.c.nodeSocket()) {
			s.view.note("the node has died: starting another one, the containers run on")
			if next, err := s.c.ensureNode(ctx); err == nil {
				s.h.adopt(next)
			} else {
				s.view.note("%s", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *session) all(ok func(*tracked) bool) bool {
	for _, p := range s.pods {
		if !ok(p) {
			return false
		}
	}
	return true
}

func (s *session) gone() bool { return s.all(func(p *tracked) bool { return p.removed }) }

func (p *tracked) finishedPhase() bool { return p.phase == v1.PodSucceeded || p.phase == v1.PodFailed }

// judge decides whether it is time to check the page or to see the pods off.
func (s *session) judge(ctx context.Context) {
	switch {
	case s.removal != "":
	case s.failure != nil:
		s.end(ctx, nil, "")
	case s.all((*tracked).finishedPhase):
		s.end(ctx, nil, "all containers have ended")
	case s.o.check != "" && !s.checked && s.all(func(p *tracked) bool { return p.ready }):
		s.checked = true
		took := time.Since(s.began)
		go func() { s.checks <- s.fetch(ctx, took) }()
	}
}

// afterCheck ends the pods where nobody watches them.
func (s *session) afterCheck(err error) {
	if err != nil {
		s.failure = err
		return
	}
	if !terminal(s.c.out) {
		s.end(context.Background(), nil, "the page was fetched, and this is no terminal")
	}
}

// end asks for the removal of every pod; grace nil is the pods' own.
func (s *session) end(ctx context.Context, grace *int64, why string) {
	s.removal = why
	if why == "" {
		s.removal = "failure"
	}
	for _, uid := range s.order {
		p := s.pods[uid]
		if p.removed {
			continue
		}
		if why != "" {
			s.view.note("pod %s: %s%s", p.podName, why, graceHint(p, grace))
		}
		err := s.c.persist(ctx, s.h, func() error {
			_, err := s.h.Delete(ctx, p.namespace, p.name, grace)
			return err
		})
		switch {
		case apierrors.IsNotFound(err):
			p.removed = true
		case err != nil && s.failure == nil:
			s.failure = fmt.Errorf("remove pod %s: %w", p.podName, sentence(err))
		}
	}
}

// graceHint tells how long the end can take, if it can take long.
func graceHint(p *tracked, grace *int64) string {
	g := p.pod.Spec.TerminationGracePeriodSeconds
	if grace != nil || g == nil || *g == 0 || p.finishedPhase() {
		return ""
	}
	return fmt.Sprintf(" (within %d s; Ctrl-C again: at once)", *g)
}

// left is what --detach says as it goes.
func (s *session) left(ctx context.Context) error {
	took := time.Since(s.began)
	for _, uid := range s.order {
		p := s.pods[uid]
		s.view.note("pod %s runs after %s: see it with berth ps, berth logs -f %s; end it with berth rm %s", p.podName, milliseconds(took), p.podName, p.podName)
	}
	if s.o.trace {
		return s.printTrace(ctx)
	}
	return nil
}

// outcome is the run's exit code.
func (s *session) outcome() error {
	if s.failure != nil {
		return s.failure
	}
	for _, uid := range s.order {
		if p := s.pods[uid]; p.phase == v1.PodFailed && !strings.HasPrefix(s.removal, "asked") {
			if p.code == 0 {
				p.code = 1
			}
			return exited(p.code)
		}
	}
	return nil
}
