package lifecycle

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// epoch is when every world begins.
var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// outcome is how one action ends.
type outcome struct {
	after time.Duration
	err   string // empty: well
	half  bool   // a StartContainer that fails after the instance was created
	lost  bool   // it had its effect but reports a failure
}

// plan decides the fate of things. The simulation draws lots, transcripts follow a script.
type plan interface {
	action(a Action) outcome
	// life tells how long an instance runs (negative: for ever) and with what code it ends.
	life(container string, attempt uint32) (time.Duration, int32)
	// dies tells how soon after SIGTERM an instance ends; negative: never by itself.
	dies(container string) time.Duration
	probe(container string, k ProbeKind, attempt uint32) bool
	lag() time.Duration // how late the kubelet learns of an exit
}

type pending struct {
	at  time.Time
	seq int
	key string // of the action in flight; empty for things of the world
	do  func()
}

// world is a node with one pod: a fake runtime (the truth), the kubelet's knowledge (obs), and a clock.
type world struct {
	t     testing.TB
	spec  *Spec
	obs   *Observed
	plan  plan
	now   time.Time
	queue []pending
	seq   int
	ids   int
	log   func(format string, args ...any)

	sandboxes  map[string]*Sandbox
	instances  map[string]*Instance
	generation int // of the daemon: what an earlier one had in flight is cut off
	gone       bool
	steps      int
	result     Result
}

func newWorld(t testing.TB, pod *v1.Pod, p plan) *world {
	return &world{
		t: t, spec: &Spec{Pod: pod, Policy: DefaultPolicy(), HostIP: "192.0.2.1"}, plan: p, now: epoch,
		obs:       newObserved(epoch),
		sandboxes: map[string]*Sandbox{}, instances: map[string]*Instance{},
		log: func(string, ...any) {},
	}
}

func newObserved(created time.Time) *Observed {
	return &Observed{Created: created, ImageReady: map[string]uint32{}, Probes: map[string]*ProbeStates{},
		InFlight: map[string]bool{}, Failures: map[string]Failure{}, Stopping: map[string]time.Time{}}
}

func (w *world) after(d time.Duration, key string, do func()) {
	w.seq++
	w.queue = append(w.queue, pending{w.now.Add(d), w.seq, key, do})
}

// decide asks Next and begins what it says.
func (w *world) decide() {
	w.steps++
	w.result = Next(w.spec, w.obs, w.now)
	w.obs.Status = w.result.Status
	again := Next(w.spec, w.obs, w.now)
	if fmt.Sprint(again.Actions) != fmt.Sprint(w.result.Actions) {
		w.t.Fatalf("at %s: asked twice, Next says %v, then %v", w.clock(), w.result.Actions, again.Actions)
	}
	w.gone = w.result.Gone
	for _, a := range w.result.Actions {
		w.begin(a)
	}
}

func (w *world) clock() time.Duration { return w.now.Sub(epoch) }

func (w *world) begin(a Action) {
	w.check(a)
	if a.Kind != Probe {
		w.log("%8s  %s", w.clock(), a)
	}
	key := a.Key()
	w.obs.InFlight[key] = true
	if a.Kind == StopContainer {
		w.obs.Stopping[a.ID] = w.now.Add(a.Grace)
	}
	o := w.plan.action(a)
	gen := w.generation
	finish := func(f func()) func() {
		return func() {
			if gen != w.generation { // the daemon that asked is dead
				return
			}
			delete(w.obs.InFlight, key)
			f()
		}
	}
	if o.err != "" && !o.half && !o.lost {
		w.after(o.after, key, finish(func() { w.failed(a, o.err) }))
		return
	}
	w.effect(a, o, finish)
}

func (w *world) failed(a Action, msg string) {
	f := w.obs.Failures[a.Key()]
	reason := map[Kind]string{EnsureImage: "ErrImagePull", CreateSandbox: "CreatePodSandboxError", StartContainer: "CreateContainerError", PrepareVolumes: "FailedMount"}[a.Kind]
	w.obs.Failures[a.Key()] = Failure{Count: f.Count + 1, At: w.now, Reason: reason, Message: msg}
	w.log("%8s  failed: %s: %s", w.clock(), a, msg)
}

// effect does the action on the truth and tells the kubelet.
func (w *world) effect(a Action, o outcome, finish func(func()) func()) {
	report := func(f func()) {
		w.after(o.after, a.Key(), finish(func() {
			if o.lost || o.half {
				w.failed(a, o.err)
			} else {
				delete(w.obs.Failures, a.Key())
			}
			f()
		}))
	}
	switch a.Kind {
	case PrepareVolumes:
		report(func() { w.obs.VolumesReady = true })
	case EnsureImage:
		report(func() { w.obs.ImageReady[a.Container] = a.Attempt + 1 })
	case CreateSandbox:
		s := w.runSandbox(a)
		report(func() { w.learnSandbox(s.ID) })
	case StartContainer:
		w.startContainer(a, o, report)
	case StopContainer:
		w.stopContainer(a, report)
	case StopSandbox:
		w.endSandbox(a.ID, 137)
		report(func() { w.learnAll(); w.setStopped(a.ID) })
	case RemoveContainer:
		delete(w.instances, a.ID)
		report(w.learnAll)
	case RemoveSandbox:
		w.endSandbox(a.ID, 137)
		delete(w.sandboxes, a.ID)
		for id, i := range w.instances {
			if i.SandboxID == a.ID {
				delete(w.instances, id)
			}
		}
		report(w.learnAll)
	case Probe:
		w.probe(a, report)
	case CleanUp:
		report(func() { w.obs.Cleaned = true })
	}
}

func (w *world) runSandbox(a Action) *Sandbox {
	for _, s := range w.sandboxes {
		if s.Attempt == a.Attempt {
			return s // a repeated call joins
		}
	}
	w.ids++
	s := &Sandbox{ID: fmt.Sprintf("s%d", w.ids), Attempt: a.Attempt, Ready: true, CreatedAt: w.now, IPs: []string{"10.0.0.7"}}
	w.sandboxes[s.ID] = s
	return s
}

func (w *world) startContainer(a Action, o outcome, report func(func())) {
	var in *Instance
	for _, i := range w.instances {
		if i.Name == a.Container && i.Attempt == a.Attempt && i.SandboxID == a.ID {
			in = i // a repeated call joins
		}
	}
	if in == nil {
		w.ids++
		in = &Instance{ID: fmt.Sprintf("c%d", w.ids), Name: a.Container, SandboxID: a.ID, Attempt: a.Attempt, BackOff: a.BackOff, CreatedAt: w.now}
		w.instances[in.ID] = in
	}
	if !o.half && in.State == Created {
		s := w.sandboxes[a.ID]
		if s == nil || !s.Ready {
			o.half = true
			o.err = "the sandbox is gone"
		} else {
			in.State, in.StartedAt = Running, w.now
			if d, code := w.plan.life(in.Name, in.Attempt); d >= 0 {
				w.after(o.after+d, "", func() { w.exit(in.ID, code) })
			}
		}
	}
	report(func() { w.learnAll() })
}

func (w *world) stopContainer(a Action, report func(func())) {
	in := w.instances[a.ID]
	if in == nil || !in.living() {
		report(w.learnAll)
		return
	}
	d, code := w.plan.dies(in.Name), int32(143)
	if d < 0 || d > a.Grace {
		d, code = a.Grace, 137
	}
	w.after(d, "", func() { w.exit(a.ID, code) })
	w.after(d, "", func() { report(w.learnAll) })
}

func (w *world) probe(a Action, report func(func())) {
	in := w.instances[a.ID]
	if in == nil {
		report(func() {})
		return
	}
	good := w.plan.probe(a.Container, a.ProbeKind, in.Attempt)
	report(func() {
		if w.obs.Probes[a.ID] == nil {
			w.obs.Probes[a.ID] = &ProbeStates{}
		}
		var c *v1.Container
		for _, cc := range allContainers(&w.spec.Pod.Spec) {
			if cc.Name == a.Container {
				c = cc
			}
		}
		w.obs.Probes[a.ID].Of(a.ProbeKind).Record(ProbeOf(c, a.ProbeKind), good, "told so", w.now)
	})
}

// exit ends an instance; the kubelet learns of it a little later.
func (w *world) exit(id string, code int32) {
	in := w.instances[id]
	if in == nil || !in.living() {
		return
	}
	in.State, in.ExitCode, in.FinishedAt = Exited, code, w.now
	w.log("%8s  %s %s exits with %d", w.clock(), in.Name, id, code)
	w.after(w.plan.lag(), "", w.learnAll)
}

func (w *world) endSandbox(id string, code int32) {
	s := w.sandboxes[id]
	if s == nil {
		return
	}
	s.Ready = false
	for _, i := range w.sorted() {
		if i.SandboxID == id {
			w.exit(i.ID, code)
		}
	}
}

// learnAll makes the kubelet know the truth, as an event of the runtime does.
func (w *world) learnAll() {
	stopped := map[string]bool{}
	for _, s := range w.obs.Sandboxes {
		stopped[s.ID] = s.Stopped
	}
	w.obs.Sandboxes, w.obs.Instances = nil, nil
	for _, s := range w.sandboxes {
		c := *s
		c.Stopped = stopped[s.ID]
		w.obs.Sandboxes = append(w.obs.Sandboxes, c)
	}
	for _, i := range w.sorted() {
		w.obs.Instances = append(w.obs.Instances, *i)
	}
}

func (w *world) learnSandbox(string) { w.learnAll() }

func (w *world) setStopped(id string) {
	for i := range w.obs.Sandboxes {
		if w.obs.Sandboxes[i].ID == id {
			w.obs.Sandboxes[i].Stopped = true
		}
	}
}

func (w *world) sorted() []*Instance {
	var list []*Instance
	for _, i := range w.instances {
		list = append(list, i)
	}
	sort.Slice(list, func(a, b int) bool { return list[a].ID < list[b].ID })
	return list
}

// restartDaemon loses what is only in memory; what was in flight never reports.
func (w *world) restartDaemon() {
	w.generation++
	status, deletion := w.obs.Status, w.obs.Deletion
	w.obs = newObserved(w.obs.Created)
	if status.Phase == v1.PodSucceeded || status.Phase == v1.PodFailed {
		w.obs.Status = status // persisted
	}
	w.obs.Deletion = deletion
	w.learnAll()
	w.log("%8s  the daemon restarts", w.clock())
}

// confuse makes the runtime unsure of an instance.
func (w *world) confuse() {
	for _, i := range w.sorted() {
		if i.State == Running {
			i.State = Unknown
			w.learnAll()
			return
		}
	}
}

// reboot loses all that the runtime has, and the daemon's memory.
func (w *world) reboot() {
	w.sandboxes, w.instances = map[string]*Sandbox{}, map[string]*Instance{}
	w.restartDaemon()
}

// run goes on until the clock shows until, or the pod is gone.
func (w *world) run(until time.Time, each func()) {
	for !w.gone {
		w.decide()
		each()
		if w.steps > 200_000 {
			w.t.Fatal("it does not come to an end")
		}
		next := until
		if r := w.result.RequeueAt; !r.IsZero() && r.Before(next) {
			next = r
		}
		sort.Slice(w.queue, func(i, j int) bool {
			if !w.queue[i].at.Equal(w.queue[j].at) {
				return w.queue[i].at.Before(w.queue[j].at)
			}
			return w.queue[i].seq < w.queue[j].seq
		})
		if len(w.queue) > 0 && !w.queue[0].at.After(next) {
			p := w.queue[0]
			w.queue = w.queue[1:]
			w.now = p.at
			p.do()
			continue
		}
		if !next.After(w.now) && next.Equal(until) {
			return
		}
		if !next.After(w.now) {
			w.t.Fatalf("at %s: Next wants to be asked again at %s, which is not later", w.clock(), next.Sub(epoch))
		}
		w.now = next
		if w.now.Equal(until) {
			w.decide()
			each()
			return
		}
	}
}

// check sees that an action that begins breaks none of the package's promises, by the truth.
func (w *world) check(a Action) {
	fail := func(format string, args ...any) {
		w.t.Fatalf("at %s: %s: %s", w.clock(), a, fmt.Sprintf(format, args...))
	}
	if w.obs.InFlight[a.Key()] {
		fail("it is in flight already")
	}
	switch a.Kind {
	case StartContainer:
		w.checkStart(a, fail)
	case CreateSandbox:
		for _, s := range w.sandboxes {
			if s.Ready && s.Attempt != a.Attempt {
				fail("sandbox %s lives", s.ID)
			}
		}
		if w.obs.Deletion != nil {
			fail("the pod is deleted")
		}
	case CleanUp:
		if len(w.sandboxes)+len(w.instances) > 0 {
			fail("there are %d sandboxes and %d instances", len(w.sandboxes), len(w.instances))
		}
	}
}

func (w *world) checkStart(a Action, fail func(string, ...any)) {
	if w.obs.Deletion != nil {
		fail("the pod is deleted")
	}
	if p := w.obs.Status.Phase; p == v1.PodSucceeded || p == v1.PodFailed {
		fail("the pod has ended")
	}
	for _, i := range w.instances {
		if i.Name == a.Container && i.living() {
			fail("instance %s lives", i.ID)
		}
		if i.Name == a.Container && i.Attempt == a.Attempt && i.ID != a.InstanceID && i.SandboxID != a.ID {
			fail("attempt %d was used by %s", a.Attempt, i.ID)
		}
		if i.Name == a.Container && i.Attempt+1 == a.Attempt && i.State == Exited {
			if at, _ := w.spec.Policy.restart(i); w.now.Before(at) {
				fail("it should wait until %s", at.Sub(epoch))
			}
		}
	}
	begun := false
	for _, c := range w.spec.Pod.Spec.Containers {
		begun = begun || w.inSandbox(c.Name, a.ID) != nil
	}
	for i := range w.spec.Pod.Spec.InitContainers {
		c := &w.spec.Pod.Spec.InitContainers[i]
		if c.Name == a.Container {
			return
		}
		in := w.inSandbox(c.Name, a.ID)
		ok := in != nil && (in.State == Exited && in.ExitCode == 0 || IsSidecar(c) && in.State != Created)
		if !ok && !begun {
			fail("init container %s has not done its work", c.Name)
		}
	}
}

func (w *world) inSandbox(name, sandbox string) *Instance {
	var newest *Instance
	for _, i := range w.instances {
		if i.Name == name && i.SandboxID == sandbox && (newest == nil || i.Attempt > newest.Attempt) {
			newest = i
		}
	}
	return newest
}

// summary is the pod's status in one line.
func (w *world) summary() string {
	s := &w.result.Status
	var parts []string
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, cs := range list {
			state := "?"
			switch {
			case cs.State.Running != nil:
				state = "Running"
			case cs.State.Waiting != nil:
				state = cs.State.Waiting.Reason
			case cs.State.Terminated != nil:
				state = fmt.Sprintf("%s(%d)", cs.State.Terminated.Reason, cs.State.Terminated.ExitCode)
			}
			if cs.Ready {
				state += ",ready"
			}
			if cs.RestartCount > 0 {
				state += fmt.Sprintf(",restarts=%d", cs.RestartCount)
			}
			parts = append(parts, cs.Name+"="+state)
		}
	}
	ready := FindCondition(s, v1.PodReady)
	return fmt.Sprintf("[%s ready=%s %s]", s.Phase, ready.Status, strings.Join(parts, " "))
}

// lots is a plan that draws.
type lots struct {
	*rand.Rand
	faults float64
}

func (l lots) some(most time.Duration) time.Duration { return time.Duration(l.Int63n(int64(most))) + 1 }

func (l lots) action(a Action) outcome {
	o := outcome{after: l.some(200 * time.Millisecond)}
	if a.Kind == EnsureImage || l.Float64() < 0.02 {
		o.after = l.some(20 * time.Second)
	}
	if l.Float64() < l.faults && a.Kind != Probe {
		o.err = "drawn"
		o.half = a.Kind == StartContainer && l.Intn(2) == 0
		o.lost = !o.half && l.Intn(3) == 0
	}
	return o
}

func (l lots) life(string, uint32) (time.Duration, int32) {
	if l.Intn(4) == 0 {
		return -1, 0
	}
	return l.some([]time.Duration{time.Second, time.Minute, 20 * time.Minute}[l.Intn(3)]), int32(l.Intn(2))
}

func (l lots) dies(string) time.Duration {
	if l.Intn(3) == 0 {
		return -1
	}
	return l.some(3 * time.Second)
}

func (l lots) probe(string, ProbeKind, uint32) bool { return l.Intn(5) > 0 }
func (l lots) lag() time.Duration                   { return l.some(50 * time.Millisecond) }
