package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"sort"
	"time"

	"github.com/google/uuid"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/kubelet/criconfig"
	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/manifest"
	"github.com/11f9778f/berth/internal/kubelet/podlog"
	"github.com/11f9778f/berth/internal/trace"
)

var podResource = schema.GroupResource{Resource: "pods"}

// Apply takes the pods of a manifest: all of them, or none. A pod that is there already is left as it is if it is
// asked for with the same words, and a conflict otherwise.
func (k *Kubelet) Apply(_ context.Context, data []byte) ([]*v1.Pod, error) {
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, invalid(err)
	}
	if len(m.Pods) == 0 {
		return nil, apierrors.NewBadRequest("the manifest holds no pod: ConfigMaps and Secrets go with the pods that use them")
	}
	all, fresh, err := k.reserve(m)
	if err != nil {
		return nil, err
	}
	if err := k.persistAll(fresh); err != nil {
		return nil, err
	}
	out := make([]*v1.Pod, len(all))
	for i, w := range all {
		select {
		case <-w.saved: // another Apply's pod may be on its way to the disk still
		case <-w.done:
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %q went away meanwhile; try again", w.podName))
		}
		out[i] = w.snapshot.Load()
	}
	return out, nil
}

// reserve finds or makes the worker of each pod of m. Fresh ones have their names, but are not going yet.
func (k *Kubelet) reserve(m *manifest.Manifest) (all, fresh []*worker, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closing {
		return nil, nil, apierrors.NewServiceUnavailable("the node is shutting down; try again")
	}
	for _, pod := range m.Pods {
		w, err := k.sameAs(pod, m)
		if err != nil {
			return nil, nil, err
		}
		if w == nil {
			now := time.Now()
			pod.UID, pod.CreationTimestamp = types.UID(uuid.NewString()), metav1.NewTime(now)
			cms, secrets := m.Uses(pod)
			w = k.newWorker(&record{Version: recordVersion, Created: now, Pod: pod, ConfigMaps: cms, Secrets: secrets})
			fresh = append(fresh, w)
		}
		all = append(all, w)
	}
	for _, w := range fresh {
		k.workers[w.space+"/"+w.podName] = w
		k.byUID[w.uid] = w
	}
	return all, fresh, nil
}

// sameAs returns the worker of a pod that is there already; an error if it is not the same.
func (k *Kubelet) sameAs(pod *v1.Pod, m *manifest.Manifest) (*worker, error) {
	old := k.workers[pod.Namespace+"/"+pod.Name]
	if old == nil {
		return nil, nil
	}
	there := old.snapshot.Load()
	if there.DeletionTimestamp != nil {
		return nil, apierrors.NewConflict(podResource, pod.Name, errors.New("the pod of that name is being removed; try again when it is gone"))
	}
	cms, secrets := m.Uses(pod)
	equal := equality.Semantic.DeepEqual
	if !equal(there.Spec, pod.Spec) || !equal(there.Labels, pod.Labels) || !equal(there.Annotations, pod.Annotations) ||
		!sameData(old.rec, cms, secrets) {
		return nil, apierrors.NewConflict(podResource, pod.Name, fmt.Errorf("a pod of that name is there and differs; remove it first (berth rm %s)", pod.Name))
	}
	return old, nil
}

func sameData(r *record, cms []*v1.ConfigMap, secrets []*v1.Secret) bool {
	if len(cms) != len(r.ConfigMaps) || len(secrets) != len(r.Secrets) {
		return false
	}
	for i := range cms {
		if !reflect.DeepEqual(cms[i].Data, r.ConfigMaps[i].Data) || !reflect.DeepEqual(cms[i].BinaryData, r.ConfigMaps[i].BinaryData) {
			return false
		}
	}
	for i := range secrets {
		if !reflect.DeepEqual(secrets[i].Data, r.Secrets[i].Data) {
			return false
		}
	}
	return true
}

// persistAll writes the records of new pods and sets them going; if one can't be written, none is kept.
func (k *Kubelet) persistAll(workers []*worker) error {
	for i, w := range workers {
		end := trace.Start(trace.With(context.Background(), w.spans), "kubelet.persist")
		err := k.paths.save(w.rec)
		end()
		if err == nil {
			continue
		}
		for _, w := range workers[:i+1] {
			if err := k.paths.remove(w.rec); err != nil {
				k.cfg.Logger.Error("undo a pod's record", "pod", w.podName, "error", err)
			}
		}
		for _, w := range workers {
			k.forget(w)
			close(w.done)
		}
		return apierrors.NewInternalError(err)
	}
	for _, w := range workers {
		k.add(w)
	}
	return nil
}

// add sets a new pod going.
func (k *Kubelet) add(w *worker) {
	e := w.event(api.PodAdded)
	e.Status = &w.snapshot.Load().Status
	k.log.Add(e)
	k.mu.Lock()
	defer k.mu.Unlock()
	close(w.saved)
	if k.ctx != nil && !k.closing {
		ctx := k.ctx
		k.running.Go(func() { w.run(ctx) })
	}
}

// Trace tells where the time of a pod's start went: its first sandbox and the first instances of its containers.
func (k *Kubelet) Trace(namespace, name string) ([]trace.Span, bool) {
	w, err := k.worker(namespace, name)
	if err != nil {
		return nil, false
	}
	return w.spans.Spans(), true
}

// invalid is a manifest's errors as a Status: each is a cause.
func invalid(err error) error {
	s := &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 422, Reason: metav1.StatusReasonInvalid, Message: err.Error(), Details: &metav1.StatusDetails{}}}
	var many manifest.Errors
	if errors.As(err, &many) {
		for _, e := range many {
			s.ErrStatus.Details.Causes = append(s.ErrStatus.Details.Causes, metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Message: e.Error()})
		}
	}
	return s
}

// Pods returns every pod, by namespace and name. It is answered from memory.
func (k *Kubelet) Pods() []*v1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := make([]string, 0, len(k.workers))
	for key := range k.workers {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	out := make([]*v1.Pod, len(keys))
	for i, key := range keys {
		out[i] = k.workers[key].snapshot.Load()
	}
	return out
}

func (k *Kubelet) worker(namespace, name string) (*worker, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.workers[namespace+"/"+name]; w != nil {
		return w, nil
	}
	return nil, apierrors.NewNotFound(podResource, name)
}

// Pod returns one pod.
func (k *Kubelet) Pod(namespace, name string) (*v1.Pod, error) {
	w, err := k.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	return w.snapshot.Load(), nil
}

// Delete makes a pod go. It returns when the wish is on disk.
func (k *Kubelet) Delete(ctx context.Context, namespace, name string, grace *int64) (*v1.Pod, error) {
	w, err := k.worker(namespace, name)
	if err != nil {
		return nil, err
	}
	seconds := *w.snapshot.Load().Spec.TerminationGracePeriodSeconds
	if grace != nil {
		seconds = *grace
	}
	if seconds < 0 || seconds > maxGrace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds %d is not between 0 and %d", seconds, maxGrace))
	}
	answer := make(chan error, 1)
	w.post(func() { w.delete(time.Duration(seconds)*time.Second, func(err error) { answer <- err }) })
	select {
	case err := <-answer:
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	case <-w.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return w.snapshot.Load(), nil
}

// maxGrace bounds a grace period, in seconds: a year.
const maxGrace = 365 * 24 * 3600

// Events calls fn for each event after since.
func (k *Kubelet) Events(ctx context.Context, since uint64, fn func(api.Event) error) error {
	return k.log.Read(ctx, since, fn)
}

// Shutdown asks Run to return. With ifIdle a node that keeps pods, its own or another CRI client's, refuses.
func (k *Kubelet) Shutdown(ifIdle bool) error {
	foreign := 0
	if ifIdle {
		got, err := k.cfg.Runtime.ListPodSandbox(context.Background(), &runtimeapi.ListPodSandboxRequest{})
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		foreign = len(got.Items)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if ifIdle && len(k.workers)+foreign > 0 {
		return apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, k.node.Name,
			fmt.Errorf("the node keeps %d pods", max(len(k.workers), foreign)))
	}
	if !k.closing {
		k.closing = true
		close(k.shutdown)
	}
	return nil
}

// Logs copies a container's log.
func (k *Kubelet) Logs(ctx context.Context, namespace, name, container string, o api.LogOptions, stdout, stderr io.Writer) error {
	w, err := k.worker(namespace, name)
	if err != nil {
		return err
	}
	type found struct {
		path  string
		ended <-chan struct{}
		err   error
	}
	answer := make(chan found, 1)
	w.post(func() {
		path, ended, err := w.findLog(container, o.Previous)
		answer <- found{path, ended, err}
	})
	var f found
	select {
	case f = <-answer:
	case <-w.done:
		return apierrors.NewNotFound(podResource, name)
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.err != nil {
		return f.err
	}
	return podlog.Copy(ctx, f.path, podlog.Options{Follow: o.Follow && !o.Previous, Timestamps: o.Timestamps, TailLines: o.TailLines,
		Since: o.Since, LimitBytes: o.LimitBytes}, f.ended, stdout, stderr)
}

// findLog finds the log of the container's newest instance that has begun, or with previous of the one that its
// status calls the last that ended, and a channel that is closed when the instance has ended.
func (w *worker) findLog(container string, previous bool) (string, <-chan struct{}, error) {
	if w.container(container) == nil {
		return "", nil, apierrors.NewBadRequest(fmt.Sprintf("container %q is not in pod %q", container, w.podName))
	}
	var in *lifecycle.Instance
	if previous {
		if in = w.lastEnded(container); in == nil {
			return "", nil, apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q has no earlier instance", container, w.podName))
		}
	} else if in = w.lastBegun(container); in == nil {
		return "", nil, apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, w.podName, w.waitingReason(container)))
	}
	ended := w.ended[in.ID]
	if ended == nil {
		ended = make(chan struct{})
		close(ended)
	}
	return filepath.Join(w.k.paths.podLogs(w.rec.Pod), criconfig.LogPath(container, in.Attempt)), ended, nil
}

// lastBegun is the newest instance that has been started, or nil.
func (w *worker) lastBegun(container string) *lifecycle.Instance {
	var newest *lifecycle.Instance
	for i := range w.obs.Instances {
		in := &w.obs.Instances[i]
		if in.Name == container && in.State != lifecycle.Created && (newest == nil || in.Attempt > newest.Attempt) {
			newest = in
		}
	}
	return newest
}

// lastEnded is the instance of the container's lastState, or nil.
func (w *worker) lastEnded(container string) *lifecycle.Instance {
	cs := lifecycle.FindContainerStatus(&w.obs.Status, container)
	if cs == nil || cs.LastTerminationState.Terminated == nil {
		return nil
	}
	for i := range w.obs.Instances {
		if in := &w.obs.Instances[i]; lifecycle.ContainerID(in) == cs.LastTerminationState.Terminated.ContainerID {
			return in
		}
	}
	return nil
}

func (w *worker) waitingReason(container string) string {
	if cs := lifecycle.FindContainerStatus(&w.obs.Status, container); cs != nil && cs.State.Waiting != nil {
		return cs.State.Waiting.Reason
	}
	return "ContainerCreating"
}
