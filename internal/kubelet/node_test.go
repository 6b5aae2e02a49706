package kubelet

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/11f9778f/berth/internal/kubelet/lifecycle"
	"github.com/11f9778f/berth/internal/kubelet/manifest"
)

// TestWhichLog: --previous is the instance that lastState tells of, also while its successor is made and while
// it waits for its back-off.
func TestWhichLog(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "i"}}}}
	manifest.SetDefaults(pod)
	k, err := New(Config{Root: t.TempDir(), Runtime: newFakeCRI(), Images: newFakeCRI()})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	instance := func(attempt uint32, s lifecycle.State, backOff time.Duration) lifecycle.Instance {
		return lifecycle.Instance{ID: string('a' + rune(attempt)), Name: "app", SandboxID: "s", Attempt: attempt, State: s, BackOff: backOff, StartedAt: now, FinishedAt: now}
	}
	for _, c := range []struct {
		name           string
		have           []lifecycle.Instance
		log, oldLog    string
		ended, nothing bool
	}{
		{"nothing yet", nil, "waiting to start: ContainerCreating", "has no earlier instance", false, true},
		{"created", []lifecycle.Instance{instance(0, lifecycle.Created, 0)}, "waiting to start", "has no earlier instance", false, true},
		{"running", []lifecycle.Instance{instance(0, lifecycle.Running, 0)}, "app/0.log", "has no earlier instance", false, false},
		{"successor created", []lifecycle.Instance{instance(0, lifecycle.Exited, 0), instance(1, lifecycle.Created, 0)}, "app/0.log", "app/0.log", true, false},
		{"successor running", []lifecycle.Instance{instance(0, lifecycle.Exited, 0), instance(1, lifecycle.Running, 0)}, "app/1.log", "app/0.log", false, false},
		{"back-off", []lifecycle.Instance{instance(0, lifecycle.Exited, 0), instance(1, lifecycle.Exited, time.Hour)}, "app/1.log", "app/1.log", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := k.newWorker(&record{Created: now, Pod: pod})
			w.obs.Sandboxes = []lifecycle.Sandbox{{ID: "s", Ready: true}}
			w.obs.Instances = c.have
			for _, i := range c.have {
				if i.State != lifecycle.Exited {
					w.ended[i.ID] = make(chan struct{})
				}
			}
			w.obs.Status = lifecycle.Next(&w.spec, &w.obs, now).Status
			for previous, want := range map[bool]string{false: c.log, true: c.oldLog} {
				path, ended, err := w.findLog("app", previous)
				if err != nil {
					path = err.Error()
				}
				if !strings.Contains(path, want) {
					t.Errorf("previous=%v: got %q, want %q", previous, path, want)
				}
				if previous || c.nothing {
					continue
				}
				select {
				case <-ended:
					if !c.ended {
						t.Error("it is told to have ended")
					}
				default:
					if c.ended {
						t.Error("it is not told to have ended")
					}
				}
			}
		})
	}
}
