package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

// handle takes one event of the node: what is of our pods is shown and remembered.
func (s *session) handle(ctx context.Context, e api.Event) {
	p := s.pods[e.UID]
	if p == nil || e.Type == api.Gap {
		return
	}
	if e.Status != nil {
		s.status(p, e.Status)
	}
	switch e.Type {
	case api.PodNetwork:
		s.portsOnce(p, e)
	case api.PodReady:
		if !p.ready {
			p.ready = true
			s.becameReady(ctx, p, e)
		}
	case api.ContainerStarted:
		s.startedContainer(ctx, p, e)
	case api.ContainerExited:
		s.exitedContainer(p, e)
	case api.ImagePulling:
		if _, told := s.pulling[e.Image]; !told { // each container pulls for itself; one word is enough
			s.pulling[e.Image] = true
			s.view.note("pulling %s", e.Image)
		}
	case api.ImageProgress:
		if e.Progress != nil {
			s.view.progress(e.Image, e.Progress.Current, e.Progress.Total, e.Progress.Detail, false)
		}
	case api.ImagePulled:
		if s.pulling[e.Image] {
			s.pulling[e.Image] = false
			s.view.progress(e.Image, 0, 0, "", true)
			s.view.note("%s", orElse(e.Message, e.Image+" is here"))
		}
	case api.Warning:
		s.warning(p, e)
	case api.PodRemoved:
		p.removed = true
		s.view.note("pod %s is gone, nothing of it is left", p.podName)
	}
}

// status remembers the pod's state.
func (s *session) status(p *tracked, st *v1.PodStatus) {
	p.phase = st.Phase
	p.pod.Status = *st
	begun := 0
	for _, c := range st.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil || c.LastTerminationState.Terminated != nil {
			begun++
		}
	}
	p.started = p.started || begun == len(p.pod.Spec.Containers)
	if p.code == 0 {
		p.code = firstFailure(st)
	}
}

// firstFailure is the exit code of the container that failed first.
func firstFailure(st *v1.PodStatus) int {
	var at time.Time
	code := 0
	for _, c := range append(append([]v1.ContainerStatus(nil), st.InitContainerStatuses...), st.ContainerStatuses...) {
		t := c.State.Terminated
		if t != nil && t.ExitCode != 0 && (code == 0 || t.FinishedAt.Time.Before(at)) {
			code, at = int(t.ExitCode), t.FinishedAt.Time
		}
	}
	return code
}

// ports says where the pod's ports are on the host.
func (s *session) ports(p *tracked, e api.Event) {
	for _, hp := range e.HostPorts {
		host := hp.HostIP
		if host == "" || host == "0.0.0.0" || host == "::" {
			host = "127.0.0.1"
		}
		url := fmt.Sprintf("%s:%d", host, hp.HostPort)
		if hp.Protocol == "" || hp.Protocol == string(v1.ProtocolTCP) {
			url = "http://" + url
		} else {
			url = fmt.Sprintf("%s/%s", url, hp.Protocol)
		}
		s.view.note("%s → %s:%d", url, hp.Container, hp.ContainerPort)
	}
}

func (s *session) becameReady(ctx context.Context, p *tracked, e api.Event) {
	s.portsOnce(p, e)
	s.view.note("pod %s is ready after %s%s", p.podName, milliseconds(time.Since(s.began)), addressOf(e.Status))
	if s.o.trace && !s.o.detach && s.all(func(p *tracked) bool { return p.ready }) {
		if err := s.printTrace(ctx); err != nil {
			s.view.note("no trace: %s", err)
		}
	}
}

// portsOnce tells the ports the first time that it is called for a pod.
func (s *session) portsOnce(p *tracked, e api.Event) {
	if !p.network {
		p.network = true
		s.ports(p, e)
	}
}

func addressOf(st *v1.PodStatus) string {
	if st == nil || st.PodIP == "" {
		return ""
	}
	return " at " + st.PodIP
}

func (s *session) exitedContainer(p *tracked, e api.Event) {
	code := int32(0)
	if e.ExitCode != nil {
		code = *e.ExitCode
	}
	if e.Init && code == 0 || s.removal != "" {
		return // as it should be
	}
	why := ""
	if e.Reason != "" && e.Reason != "Error" && e.Reason != "Completed" {
		why = " (" + e.Reason + ")"
	}
	s.view.note("%s ended with exit code %d%s", s.prefix(p, e.Container, len(s.pods)), code, why)
	s.giveUp(p, e)
}

// hopeless are the reasons after which trying again won't help within a person's patience: they end
// a run in the foreground.
var hopeless = map[string]bool{
	"ErrImagePull": true, "ImagePullBackOff": true, "InvalidImageName": true, "ErrImageNeverPull": true,
	"ImageInspectError": true, "CreatePodSandboxError": true, "CreateContainerConfigError": true,
	"CreateContainerError": true, "RunContainerError": true, "FailedMount": true, "StartError": true,
}

// warning shows a step that failed. One that is hopeless ends the run.
func (s *session) warning(p *tracked, e api.Event) {
	s.view.progress(e.Image, 0, 0, "", true)
	if s.giveUp(p, e) {
		return
	}
	s.view.note("%s: %s: %s", whereOf(p, e), e.Reason, e.Message)
}

// giveUp ends the run where the event is hopeless and nothing else has ended it.
func (s *session) giveUp(p *tracked, e api.Event) bool {
	if !hopeless[e.Reason] || s.failure != nil || s.removal != "" {
		return false
	}
	s.failure = fmt.Errorf("%s: %s", whereOf(p, e), e.Message)
	return true
}

func whereOf(p *tracked, e api.Event) string {
	if e.Container == "" {
		return "pod " + p.podName.String()
	}
	return "pod " + p.podName.String() + ", container " + e.Container
}

// startedContainer follows the logs of a container from its first instance to its last.
func (s *session) startedContainer(ctx context.Context, p *tracked, e api.Event) {
	if s.o.detach {
		return
	}
	starts := p.follow[e.Container]
	if starts == nil {
		starts = make(chan struct{}, 16)
		p.follow[e.Container] = starts
		name := s.prefix(p, e.Container, len(s.pods))
		w := newStamped(func(b []byte) { s.view.line(name, b) }, s.o.stamps)
		s.logs.Add(1)
		go func() {
			defer s.logs.Done()
			s.followLog(ctx, p.podName, e.Container, starts, w)
		}()
	}
	select {
	case starts <- struct{}{}:
	default: // it restarts faster than we read: the next look shows what there is
	}
}

// followLog prints each instance of a container until starts is closed.
func (s *session) followLog(ctx context.Context, p podName, container string, starts <-chan struct{}, w *stamped) {
	for range starts {
		for {
			err := s.h.Logs(ctx, p.namespace, p.name, container, api.LogOptions{Follow: true, Timestamps: true, Since: w.last}, w)
			w.flush()
			if err == nil || ctx.Err() != nil || !unreachable(err) {
				break // the instance has ended, or its log is gone
			}
			time.Sleep(100 * time.Millisecond) // the node is being replaced
			w.resume()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// stamped takes lines that begin with a time and gives them on, without the time unless it is to be
// kept. After resume, the stream begins at the last time again, and it drops the lines that it has had already.
// Times may go back, with the machine's clock.
type stamped struct {
	lines
	give func([]byte)
	keep bool

	last   time.Time // of the last line
	same   int       // lines that had this time
	repeat int       // lines of this time that are still to come again
}

func newStamped(give func([]byte), keep bool) *stamped {
	w := &stamped{give: give, keep: keep}
	w.each = w.take
	return w
}

// resume prepares for a stream that begins at last again.
func (w *stamped) resume() { w.repeat = w.same }

func (w *stamped) take(b []byte) {
	stamp, text, _ := bytes.Cut(b, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	switch {
	case err != nil: // the rest of a line that was too long
		w.give(b)
		return
	case at.Equal(w.last) && w.repeat > 0:
		w.repeat--
		return
	case at.Equal(w.last):
		w.same++
	case at.After(w.last):
		w.last, w.same, w.repeat = at, 1, 0
	}
	if w.keep {
		text = b
	}
	w.give(text)
}

// fetch gets the page of --check once, and prints it and how long the start took.
func (s *session) fetch(ctx context.Context, took time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.o.check, nil)
	if err != nil {
		return fail("write it like http://127.0.0.1:8080/", "--check %s: %w", s.o.check, err)
	}
	req.Header.Set("User-Agent", "berth-check")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fail("is it one of the host ports above?", "the pods are ready, but %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read %s: %w", s.o.check, err)
	}
	if !bytes.HasSuffix(body, []byte("\n")) {
		body = append(body, '\n')
	}
	s.view.raw(body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered %s", s.o.check, resp.Status)
	}
	s.view.note("%s answered; the start took %s from manifest to ready", s.o.check, milliseconds(took))
	return nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
