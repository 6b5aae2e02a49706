package kubelet

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/11f9778f/berth/internal/kubelet/api"
	"github.com/11f9778f/berth/internal/sys"
)

// crashRoot is set in the child of the crash tests.
const crashRoot = "BERTH_TEST_CRASH_ROOT"

const crashPod = `
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: v}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: mem, emptyDir: {medium: Memory}}, {name: s, secret: {secretName: s}}]
  containers: [{name: app, image: "sleep:1", volumeMounts: [{name: mem, mountPath: /m}, {name: s, mountPath: /s}]}]
`

// TestCrashChild is the body of the child: a pod's whole life.
func TestCrashChild(t *testing.T) {
	root := os.Getenv(crashRoot)
	if root == "" {
		t.Skip("it is run by TestCrash")
	}
	r := newRig(t, root, nil)
	if _, err := r.Apply(t.Context(), []byte(crashPod)); err != nil {
		if !apierrors.IsInternalError(err) {
			t.Fatal(err)
		}
		r.apply(crashPod) // the failpoint has gone off; the second time it goes well
	}
	r.until("ready", ofType(api.PodReady, ""))
	if _, err := r.Delete(t.Context(), "default", "p", nil); err != nil {
		if _, err := r.Delete(t.Context(), "default", "p", nil); err != nil {
			t.Fatal(err)
		}
	}
	r.until("removal", ofType(api.PodRemoved, ""))
	r.clean()
}

func child(t *testing.T, root, failpoint string) error {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), crashRoot+"="+root, "BERTH_FAILPOINT="+failpoint, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(string(out)))
	}
	return nil
}

// TestCrash kills the daemon at each of the kubelet's failpoints, and starts another one on a machine whose
// runtime has lost everything; after the pod's removal nothing may be left. Then it makes each of them fail once.
func TestCrash(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the pod has a tmpfs, which needs root")
	}
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	if err := child(t, t.TempDir(), "trace:"+trace); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(data))
	if len(names) < 20 {
		t.Errorf("only %d failpoints were reached: %v", len(names), names)
	}
	for _, name := range names {
		t.Run(name+"=kill", func(t *testing.T) {
			root := t.TempDir()
			t.Cleanup(func() { // whatever the verdict is, no mount stays
				left, _ := filepath.Glob(filepath.Join(root, "kubelet/pods/*/volumes/*/mem"))
				for _, dir := range left {
					sys.UnmountFolder(dir)
				}
			})
			err := child(t, root, name+"=kill")
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child was not killed: %v", err)
			}
			recoverAndRemove(t, root)
		})
		t.Run(name+"=error", func(t *testing.T) {
			if err := child(t, t.TempDir(), name+"=error"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func recoverAndRemove(t *testing.T, root string) {
	r := newRig(t, root, nil)
	pods, err := r.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			waitRunning(t, r, pod.Name)
			if _, err := r.Delete(t.Context(), pod.Namespace, pod.Name, nil); err != nil {
				t.Fatal(err)
			}
		}
		r.until("removal", ofType(api.PodRemoved, ""))
	}
	r.clean()
}

// waitRunning: a pod that was acknowledged, or nearly, runs after the restart.
func waitRunning(t *testing.T, r *rig, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		pod, err := r.Pod(ctx, "default", name)
		if err == nil && pod.Status.Phase == v1.PodRunning {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the pod does not run after the restart")
}
