package kubelet

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/trace"
)

// worker keeps one pod. All fields below "run's own" belong to the goroutine of run; everybody else talks to it
// through post, which never blocks, or reads the snapshot.
type worker struct {
	k        *Kubelet
	uid      string
	podName  string
	space    string
	snapshot atomic.Pointer[v1.Pod] // for lists; never changed once stored
	saved    chan struct{}          // closed when the record is on disk
	done     chan struct{}          // closed when run has returned
	spans    *trace.Recorder        // of the pod's start

	mu    sync.Mutex
	inbox []func()
	wake  chan struct{} // capacity 1

	// run's own
	ctx     context.Context
	actions sync.WaitGroup
	rec     *record
	spec    lifecycle.Spec
	obs     lifecycle.Observed
	cancels map[string]context.CancelFunc // of actions in flight, by key
	images  map[string]string             // by container: what the image service answered
	removed map[string]bool               // IDs of sandboxes and containers that were removed
	ended   map[string]chan struct{}      // by instance ID: closed when it has exited or is gone
	ready   bool                          // as it was told last
	gone    bool
}

func (k *Kubelet) newWorker(r *record) *worker {
	w := &worker{
		k: k, uid: string(r.Pod.UID), podName: r.Pod.Name, space: r.Pod.Namespace,
		saved: make(chan struct{}), done: make(chan struct{}), spans: &trace.Recorder{}, wake: make(chan struct{}, 1), rec: r,
		spec: lifecycle.Spec{Pod: r.Pod, HostIP: k.node.HostIP, Policy: lifecycle.Policy{
			BackOffInitial: k.cfg.BackOffInitial, BackOffMax: k.cfg.BackOffMax, BackOffReset: k.cfg.BackOffReset}},
		obs: lifecycle.Observed{
			Created: r.Created, Deletion: r.Deletion, ImageReady: map[string]uint32{}, Probes: map[string]*lifecycle.ProbeStates{},
			InFlight: map[string]bool{}, Failures: map[string]lifecycle.Failure{}, Stopping: map[string]time.Time{},
		},
		cancels: map[string]context.CancelFunc{}, images: map[string]string{}, removed: map[string]bool{},
		ended: map[string]chan struct{}{},
	}
	if r.Final != nil {
		w.obs.Status = *r.Final
	}
	w.publish(w.obs.Status)
	return w
}

// post has f run on the worker's goroutine, soon. It never blocks; after the worker's end f is dropped.
func (w *worker) post(f func()) {
	w.mu.Lock()
	w.inbox = append(w.inbox, f)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take runs what was posted.
func (w *worker) take() {
	w.mu.Lock()
	inbox := w.inbox
	w.inbox = nil
	w.mu.Unlock()
	for _, f := range inbox {
		f()
	}
}

// run keeps the pod until it is gone or ctx ends. Actions in flight are waited for.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	ctx, cancel := context.WithCancel(ctx)
	w.ctx = ctx
	defer w.actions.Wait()
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.take()
		requeue := w.step(time.Now())
		if w.gone {
			return
		}
		var due <-chan time.Time
		if !requeue.IsZero() {
			timer.Reset(max(0, time.Until(requeue)))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-due:
		}
	}
}

// step asks the pure function and begins what it says.
func (w *worker) step(now time.Time) time.Time {
	r := lifecycle.Next(&w.spec, &w.obs, now)
	w.changed(&r.Status)
	for _, a := range r.Actions {
		w.begin(a, now)
	}
	if r.Gone {
		w.finish()
	}
	return r.RequeueAt
}

// changed publishes a new status, and persists one that is final first.
func (w *worker) changed(s *v1.PodStatus) {
	if reflect.DeepEqual(s, &w.obs.Status) && w.snapshot.Load() != nil && w.snapshot.Load().Status.Phase != "" {
		return
	}
	w.obs.Status = *s
	w.persistFinal(s) // before anybody is told: who was told "ended" will not see it run again
	w.publish(*s)
	e := w.event(api.PodChanged)
	e.Status = &w.snapshot.Load().Status
	w.k.log.Add(e)
	if c := lifecycle.FindCondition(s, v1.PodReady); c != nil && (c.Status == v1.ConditionTrue) != w.ready {
		w.ready = !w.ready
		if w.ready {
			w.tellReady(s)
		}
	}
}

func (w *worker) persistFinal(s *v1.PodStatus) {
	if s.Phase != v1.PodSucceeded && s.Phase != v1.PodFailed || w.rec.Final != nil || w.obs.Deletion != nil {
		return
	}
	w.rec.Final = s.DeepCopy()
	if err := w.k.paths.save(w.rec); err != nil {
		w.rec.Final = nil
		w.k.cfg.Logger.Error("persist a pod's final status", "pod", w.podName, "namespace", w.space, "error", err)
	}
}

// publish makes the pod as it is now visible to readers.
func (w *worker) publish(s v1.PodStatus) {
	pod := *w.rec.Pod
	pod.Status = *s.DeepCopy()
	if d := w.obs.Deletion; d != nil {
		grace := int64(d.Grace / time.Second)
		pod.DeletionTimestamp = &metav1.Time{Time: d.At.Add(d.Grace)}
		pod.DeletionGracePeriodSeconds = &grace
	}
	w.snapshot.Store(&pod)
}

// begin runs one action in a goroutine of its own. Its result comes back through post.
func (w *worker) begin(a lifecycle.Action, now time.Time) {
	key := a.Key()
	w.obs.InFlight[key] = true
	if a.Kind == lifecycle.StopContainer {
		w.obs.Stopping[a.ID] = now.Add(a.Grace)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	if a.Attempt == 0 && firstSteps[a.Kind] {
		ctx = trace.With(ctx, w.spans)
	}
	w.cancels[key] = cancel
	do := w.prepare(a)
	w.actions.Go(func() {
		defer cancel()
		learned, err := do(ctx)
		w.post(func() {
			delete(w.obs.InFlight, key)
			delete(w.cancels, key)
			if learned != nil {
				learned()
			}
			if err != nil {
				w.failed(a, err)
			} else {
				delete(w.obs.Failures, key)
			}
		})
	})
}

// firstSteps are those of a pod's start, of which spans are kept.
var firstSteps = map[lifecycle.Kind]bool{
	lifecycle.PrepareVolumes: true, lifecycle.EnsureImage: true, lifecycle.CreateSandbox: true, lifecycle.StartContainer: true,
}

// failed records that an action failed, and tells it. What a deletion cut short has not failed.
func (w *worker) failed(a lifecycle.Action, err error) {
	if w.ctx.Err() != nil || w.obs.Deletion != nil && (firstSteps[a.Kind] || a.Kind == lifecycle.Probe) {
		return
	}
	reason, message := explain(a, err)
	f := w.obs.Failures[a.Key()]
	w.obs.Failures[a.Key()] = lifecycle.Failure{Count: f.Count + 1, At: time.Now(), Reason: reason, Message: message}
	e := w.event(api.Warning)
	e.Container, e.Attempt, e.Image, e.Reason, e.Message = a.Container, a.Attempt, a.Image, reason, message
	w.k.log.Add(e)
	w.k.cfg.Logger.Warn("pod step failed", "pod", w.podName, "namespace", w.space, "step", a.String(), "error", err)
}

// delete makes the pod go. A second call can only make it go sooner.
func (w *worker) delete(grace time.Duration, answer func(error)) {
	d := lifecycle.Deletion{At: time.Now(), Grace: grace}
	old := w.obs.Deletion
	if old != nil {
		if !d.At.Add(d.Grace).Before(old.At.Add(old.Grace)) {
			answer(nil)
			return
		}
		d.Grace, d.At = max(0, d.At.Add(d.Grace).Sub(old.At)), old.At
	}
	w.rec.Deletion = &d
	if err := w.k.paths.save(w.rec); err != nil {
		w.rec.Deletion = old
		answer(err)
		return
	}
	w.obs.Deletion = &d
	for _, kind := range []string{"image/", "probe/"} {
		w.cancel(kind)
	}
	time.AfterFunc(time.Until(d.At.Add(d.Grace)), func() {
		w.post(func() { w.cancel("start/"); w.cancel(string(lifecycle.CreateSandbox)) })
	})
	w.publish(w.obs.Status)
	answer(nil)
}

// cancel ends actions in flight whose key begins so.
func (w *worker) cancel(prefix string) {
	for key, cancel := range w.cancels {
		if len(key) >= len(prefix) && key[:len(prefix)] == prefix {
			cancel()
		}
	}
}

// finish: nothing of the pod is left.
func (w *worker) finish() {
	w.gone = true
	for _, ch := range w.ended {
		close(ch)
	}
	w.ended = map[string]chan struct{}{}
	w.k.forget(w)
	w.k.log.Add(w.event(api.PodRemoved))
}
