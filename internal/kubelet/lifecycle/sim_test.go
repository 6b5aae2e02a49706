package lifecycle

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/11f9778f/berth/internal/kubelet/manifest"
)

// TestSimulation lives through many random pods on a runtime that fails, with sandboxes that die, daemons that
// are killed and a deletion at the end. world.check holds the invariants.
func TestSimulation(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 50
	}
	for seed := range int64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulate(t, seed) })
	}
}

func simulate(t *testing.T, seed int64) {
	r := rand.New(rand.NewSource(seed))
	l := lots{r, []float64{0, 0.05, 0.3}[r.Intn(3)]}
	w := newWorld(t, randomPod(r), l)
	var history []string
	w.log = func(f string, args ...any) { history = append(history, fmt.Sprintf(f, args...)) }
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range history[max(0, len(history)-60):] {
				t.Log(line)
			}
		}
	})
	for range r.Intn(4) {
		w.after(l.some(30*time.Minute), "", func() {
			for _, s := range w.sandboxes {
				w.endSandbox(s.ID, 137)
			}
			w.learnAll()
		})
	}
	for range r.Intn(4) {
		w.after(l.some(30*time.Minute), "", w.restartDaemon)
	}
	for range r.Intn(3) {
		w.after(l.some(30*time.Minute), "", w.confuse)
	}
	if r.Intn(4) == 0 {
		w.after(l.some(30*time.Minute), "", w.reboot)
	}
	deleted := epoch.Add(l.some([]time.Duration{time.Second, time.Minute, time.Hour}[r.Intn(3)]))
	finalPhase := v1.PodPhase("")
	w.run(deleted, func() {
		p := w.result.Status.Phase
		if finalPhase != "" && p != finalPhase {
			t.Fatalf("phase %s became %s", finalPhase, p)
		}
		if p == v1.PodSucceeded || p == v1.PodFailed {
			finalPhase = p
		}
	})
	w.obs.Deletion = &Deletion{At: w.now, Grace: 5 * time.Second}
	w.after(l.some(3*time.Second), "", w.restartDaemon)
	w.run(deleted.Add(24*time.Hour), func() {})
	if !w.gone || len(w.sandboxes)+len(w.instances) > 0 {
		t.Fatalf("a day after its deletion the pod is not gone: %s", w.summary())
	}
}

func randomPod(r *rand.Rand) *v1.Pod {
	pod := &v1.Pod{}
	pod.Name, pod.UID = "p", "uid"
	pod.Spec.RestartPolicy = []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}[r.Intn(3)]
	always := v1.ContainerRestartPolicyAlways
	for i := range r.Intn(4) {
		c := v1.Container{Name: fmt.Sprintf("init%d", i), Image: "i"}
		if r.Intn(3) == 0 {
			c.RestartPolicy = &always
			if r.Intn(2) == 0 {
				c.StartupProbe = randomProbe(r)
			}
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for i := range 1 + r.Intn(3) {
		c := v1.Container{Name: fmt.Sprintf("app%d", i), Image: "i"}
		if r.Intn(3) == 0 {
			c.ReadinessProbe = randomProbe(r)
		}
		if r.Intn(4) == 0 {
			c.LivenessProbe = randomProbe(r)
		}
		if r.Intn(4) == 0 {
			c.StartupProbe = randomProbe(r)
		}
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	manifest.SetDefaults(pod)
	return pod
}

func randomProbe(r *rand.Rand) *v1.Probe {
	return &v1.Probe{PeriodSeconds: int32(1 + r.Intn(20)), InitialDelaySeconds: int32(r.Intn(5)), FailureThreshold: int32(1 + r.Intn(3)),
		ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"true"}}}}
}
