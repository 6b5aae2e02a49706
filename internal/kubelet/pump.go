package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/kubelet/criconfig"
)

// pump brings the runtime's events to the workers for as long as ctx lives, and a list at the begin and
// whenever the stream broke. The first list's error goes to first.
func (k *Kubelet) pump(ctx context.Context, first chan<- error) {
	for pause := time.Duration(0); ctx.Err() == nil; pause = min(max(2*pause, 50*time.Millisecond), 5*time.Second) {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		began := time.Now()
		err := k.stream(ctx, first)
		if first != nil && err != nil {
			select {
			case first <- err:
			default:
			}
		}
		if ctx.Err() == nil {
			k.cfg.Logger.Warn("the runtime's event stream broke", "error", err)
		}
		first = nil
		if time.Since(began) > 10*time.Second {
			pause = 0
		}
	}
}

// settle is how long after the begin of a stream a second list is made: CRI does not tell when a stream has
// begun, so the first list may be older than the first event.
const settle = 300 * time.Millisecond

// stream follows one event stream to its end.
func (k *Kubelet) stream(ctx context.Context, first chan<- error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	resumable, ok := k.cfg.Runtime.(ResumableEvents)
	if ok {
		since := resumable.EventPosition()
		go func() {
			ended <- resumable.Events(ctx, since, func(e *runtimeapi.ContainerEventResponse) error { k.route(e); return ctx.Err() })
		}()
	} else {
		go func() {
			ended <- k.cfg.Runtime.GetContainerEvents(&runtimeapi.GetEventsRequest{}, &eventStream{ctx: ctx, send: k.route})
		}()
	}
	stop := func(err error) error {
		cancel()
		return errors.Join(err, <-ended)
	}
	if err := k.relist(ctx, first != nil); err != nil {
		return stop(err)
	}
	if first != nil {
		first <- nil
	}
	if ok {
		return <-ended
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(settle):
	}
	if err := k.relist(ctx, false); err != nil {
		return stop(err)
	}
	return <-ended
}

// route hands an event to its pod's worker. Events of pods that are not the kubelet's are none of its business.
func (k *Kubelet) route(e *runtimeapi.ContainerEventResponse) {
	uid := e.GetPodSandboxStatus().GetMetadata().GetUid()
	k.mu.Lock()
	w := k.byUID[uid]
	k.mu.Unlock()
	if w != nil {
		w.post(func() { w.learnEvent(e) })
	}
}

// eventStream is the server's side of a stream within the process.
type eventStream struct {
	grpc.ServerStream
	ctx  context.Context
	send func(*runtimeapi.ContainerEventResponse)
}

func (s *eventStream) Context() context.Context { return s.ctx }

func (s *eventStream) Send(e *runtimeapi.ContainerEventResponse) error {
	s.send(e)
	return s.ctx.Err()
}

// relist asks the runtime for everything and hands each worker its part. adopt tells that what is found was
// there before this daemon.
func (k *Kubelet) relist(ctx context.Context, adopt bool) error {
	began := time.Now()
	sandboxes, err := k.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	k.mu.Lock()
	workers := make(map[string]*worker, len(k.byUID))
	for uid, w := range k.byUID {
		workers[uid] = w
	}
	k.mu.Unlock()
	lists := map[string]*listed{}
	for uid := range workers {
		lists[uid] = &listed{at: began, containers: map[string][]*runtimeapi.ContainerStatus{}}
	}
	for _, s := range sandboxes.Items {
		l := lists[s.Labels[criconfig.LabelPodUID]]
		if l == nil {
			continue
		}
		if err := k.listSandbox(ctx, s.Id, l); err != nil {
			return err
		}
	}
	for uid, l := range lists {
		w := workers[uid]
		w.post(func() { w.learnList(*l, adopt) })
	}
	return nil
}

func (k *Kubelet) listSandbox(ctx context.Context, id string, l *listed) error {
	got, err := k.cfg.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if notFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of sandbox %s: %w", id, err)
	}
	l.sandboxes = append(l.sandboxes, got.Status)
	l.containers[id], err = statuses(ctx, k.cfg.Runtime, id)
	return err
}

// statuses asks for every container of a sandbox.
func statuses(ctx context.Context, rt Runtime, sandbox string) ([]*runtimeapi.ContainerStatus, error) {
	list, err := rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandbox}})
	if err != nil {
		return nil, fmt.Errorf("list containers of sandbox %s: %w", sandbox, err)
	}
	var out []*runtimeapi.ContainerStatus
	for _, c := range list.Containers {
		got, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if notFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("status of container %s: %w", c.Id, err)
		}
		out = append(out, got.Status)
	}
	return out, nil
}
