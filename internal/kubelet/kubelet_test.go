package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

// rig is a kubelet on a fake runtime, and a client of its socket.
type rig struct {
	*api.Client
	t    *testing.T
	root string
	cri  *fakeCRI
	k    *Kubelet
	stop func()
}

// newRig starts a kubelet on root and cri; nil makes a new one.
func newRig(t *testing.T, root string, cri *fakeCRI) *rig {
	t.Helper()
	if root == "" {
		root = t.TempDir()
	}
	if cri == nil {
		cri = newFakeCRI()
	}
	r := &rig{t: t, root: root, cri: cri}
	sock, err := os.MkdirTemp("", "berth") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	r.k, err = New(Config{Root: root, Socket: filepath.Join(sock, "n"), NodeName: "node1", HostIP: "192.0.2.1", Runtime: cri, Images: cri,
		BackOffInitial: 30 * time.Millisecond, BackOffMax: 100 * time.Millisecond, BackOffReset: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.k.Run(ctx) }()
	r.Client = api.NewClient(filepath.Join(sock, "n"))
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		r.Client.Close()
		os.RemoveAll(sock)
	}
	t.Cleanup(r.stop)
	for deadline := time.Now().Add(2 * time.Minute); r.Healthz(t.Context()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the node API does not answer")
		}
	}
	return r
}

func (r *rig) apply(manifest string) []v1.Pod {
	r.t.Helper()
	pods, err := r.Apply(r.t.Context(), []byte(manifest))
	if err != nil {
		r.t.Fatal(err)
	}
	return pods
}

// until reads events, from the first, until one satisfies ok.
func (r *rig) until(what string, ok func(api.Event) bool) api.Event {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	var found api.Event
	var seen []string
	err := r.Events(ctx, 0, func(e api.Event) error {
		seen = append(seen, fmt.Sprintf("%s %s %s %s %s", e.Type, e.Pod, e.Container, e.Reason, e.Message))
		if ok(e) {
			found = e
			return api.ErrStop
		}
		return nil
	})
	if err != nil {
		r.t.Fatalf("%s did not come: %v; events:\n%s", what, err, strings.Join(seen, "\n"))
	}
	return found
}

func ofType(t api.EventType, container string) func(api.Event) bool {
	return func(e api.Event) bool { return e.Type == t && e.Container == container }
}

// clean fails the test if anything is left of any pod.
func (r *rig) clean() {
	r.t.Helper()
	if got := r.cri.count(); got != "0 sandboxes, 0 containers" {
		r.t.Errorf("the runtime still has %s", got)
	}
	noFiles(r.t, r.root)
}

func noFiles(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"kubelet/pods", "logs/pods"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v, %v", dir, entries, err)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), root) {
		t.Errorf("mounts are left below %s", root)
	}
}

const twoContainers = `
apiVersion: v1
kind: ConfigMap
metadata: {name: cm}
data: {colour: green}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 3
  volumes: [{name: page, emptyDir: {}}, {name: cm, configMap: {name: cm}}]
  initContainers:
  - {name: prep, image: "exit-0:1", volumeMounts: [{name: page, mountPath: /page}]}
  containers:
  - name: app
    image: sleep:1
    args: ["--colour=$(COLOUR)", "$(IP)"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: cm, key: colour}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    ports: [{containerPort: 80, hostPort: 8080, hostIP: 127.0.0.1}]
    volumeMounts: [{name: page, mountPath: /page, readOnly: true}, {name: cm, mountPath: /cm}]
    readinessProbe: {exec: {command: ["true"]}}
  - {name: side, image: "sleep:1"}
`

func TestLifeOfAPod(t *testing.T) {
	r := newRig(t, "", nil)
	tries := 0
	r.cri.exec = func(string) int32 {
		if tries++; tries < 3 {
			return 1
		}
		return 0
	}
	pods := r.apply(twoContainers)
	if len(pods) != 1 || pods[0].UID == "" || pods[0].Namespace != "default" {
		t.Fatalf("applied: %+v", pods)
	}
	again := r.apply(twoContainers)
	if again[0].UID != pods[0].UID {
		t.Error("the same manifest made another pod")
	}
	ready := r.until("ready", ofType(api.PodReady, ""))
	if len(ready.HostPorts) != 1 || ready.HostPorts[0].HostPort != 8080 || ready.PodIP != "127.0.0.1" {
		t.Errorf("ready: %+v", ready)
	}
	if started := r.until("start of prep", ofType(api.ContainerStarted, "prep")); !started.Init {
		t.Error("prep is not told as an init container")
	}
	exited := r.until("exit of prep", ofType(api.ContainerExited, "prep"))
	if *exited.ExitCode != 0 || exited.Message != "last words" {
		t.Errorf("prep: code %d, message %q", *exited.ExitCode, exited.Message)
	}
	pod, err := r.Pod(t.Context(), "default", "web")
	if err != nil || pod.Status.Phase != v1.PodRunning || pod.Status.PodIP != "127.0.0.1" || pod.Kind != "Pod" {
		t.Fatalf("%+v, %v", pod, err)
	}
	r.cri.mu.Lock()
	if r.cri.calls[0] != "create prep" || len(r.cri.calls) != 3 {
		t.Errorf("calls: %v", r.cri.calls)
	}
	for _, c := range r.cri.containers {
		if c.Metadata.Name == "app" && strings.Join(c.config.Args, " ") != "--colour=green 127.0.0.1" {
			t.Errorf("args %v", c.config.Args)
		}
	}
	r.cri.mu.Unlock()
	hosts, _ := os.ReadFile(filepath.Join(r.root, "kubelet/pods", string(pod.UID), "etc-hosts"))
	if !strings.Contains(string(hosts), "127.0.0.1\tweb\n") {
		t.Errorf("hosts: %s", hosts)
	}
	if _, err := r.Delete(t.Context(), "default", "web", nil); err != nil {
		t.Fatal(err)
	}
	r.until("removal", ofType(api.PodRemoved, ""))
	r.clean()
	if _, err := r.Pod(t.Context(), "default", "web"); !apierrors.IsNotFound(err) {
		t.Errorf("after removal: %v", err)
	}
	if spans, _ := r.k.Trace("default", "web"); len(spans) != 0 {
		t.Error("a removed pod has a trace")
	}
}

func simple(name, image, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n  terminationGracePeriodSeconds: 1\n%s  containers: [{name: app, image: %q}]\n", name, spec, image)
}

func TestConflictAndInvalid(t *testing.T) {
	r := newRig(t, "", nil)
	r.apply(simple("a", "sleep:1", ""))
	_, err := r.Apply(t.Context(), []byte(simple("b", "sleep:1", "")+"---\n"+simple("a", "deaf:1", "")))
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "berth rm a") {
		t.Errorf("another pod a: %v", err)
	}
	if pods, _ := r.Pods(t.Context()); len(pods) != 1 {
		t.Errorf("half of a refused manifest was taken: %d pods", len(pods))
	}
	_, err = r.Apply(t.Context(), []byte(simple("c", "sleep:1", "  affinity: {nodeAffinity: {}}\n")))
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `pod "c": spec.affinity: Berth does not do this yet`) {
		t.Errorf("an unsupported field: %v", err)
	}
	if _, err = r.Delete(t.Context(), "default", "none", nil); !apierrors.IsNotFound(err) {
		t.Errorf("delete of nothing: %v", err)
	}
	if err := r.Shutdown(t.Context(), true); !apierrors.IsConflict(err) {
		t.Errorf("shutdown of a busy node: %v", err)
	}
	if err := r.Logs(t.Context(), "default", "a", "nope", api.LogOptions{}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), `container "nope" is not in pod "a"`) {
		t.Errorf("logs of no container: %v", err)
	}
}

// waiting finds the state of the container app in PodChanged events.
func waiting(reason string) func(api.Event) bool {
	return func(e api.Event) bool {
		if e.Type != api.PodChanged || len(e.Status.ContainerStatuses) == 0 {
			return false
		}
		w := e.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == reason
	}
}

func TestFailuresAreNamed(t *testing.T) {
	r := newRig(t, "", nil)
	r.apply(simple("a", "absent:1", ""))
	w := r.until("a warning", ofType(api.Warning, "app"))
	if w.Reason != "ErrImagePull" || w.Message != "image absent:1: not found in the registry" {
		t.Errorf("got %s: %s", w.Reason, w.Message)
	}
	r.until("ErrImagePull", waiting("ErrImagePull"))
	r.until("ImagePullBackOff", waiting("ImagePullBackOff"))
	r.apply(simple("b", "nofile:1", ""))
	r.until("RunContainerError", waiting("RunContainerError"))
	r.apply(simple("c", "sleep:1", "  securityContext: {runAsNonRoot: true}\n"))
	e := r.until("CreateContainerConfigError", waiting("CreateContainerConfigError"))
	if m := e.Status.ContainerStatuses[0].State.Waiting.Message; m != `container "app" has runAsNonRoot and image sleep:1 runs as root; set runAsUser` {
		t.Errorf("message %q", m)
	}
	r.cri.mu.Lock()
	r.cri.sandboxErr = fmt.Errorf("host port 80 is in use")
	r.cri.mu.Unlock()
	r.apply(simple("d", "sleep:1", ""))
	e = r.until("CreatePodSandboxError", waiting("CreatePodSandboxError"))
	if m := e.Status.ContainerStatuses[0].State.Waiting.Message; m != "host port 80 is in use" {
		t.Errorf("message %q", m)
	}
	zero := int64(0)
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := r.Delete(t.Context(), "default", name, &zero); err != nil {
			t.Error(err)
		}
		r.until("removal of "+name, func(e api.Event) bool { return e.Type == api.PodRemoved && e.Pod == name })
	}
	r.clean()
}

func TestNeverRunsOnce(t *testing.T) {
	r := newRig(t, "", nil)
	r.apply(simple("a", "exit-3:1", "  restartPolicy: Never\n"))
	e := r.until("the end", func(e api.Event) bool { return e.Type == api.PodChanged && e.Status.Phase == v1.PodFailed })
	if c := e.Status.ContainerStatuses[0].State.Terminated; c == nil || c.ExitCode != 3 || c.Message != "last words" {
		t.Errorf("state %+v", e.Status.ContainerStatuses[0].State)
	}
	r.stop()
	// The machine has been rebooted since: the runtime knows nothing. The pod stays ended.
	again := newRig(t, r.root, nil)
	pod, err := again.Pod(t.Context(), "default", "a")
	if err != nil || pod.Status.Phase != v1.PodFailed || pod.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Fatalf("after a reboot: %v, %+v", err, pod.Status)
	}
	if got := again.cri.count(); got != "0 sandboxes, 0 containers" {
		t.Errorf("it was started again: %s", got)
	}
	again.Delete(t.Context(), "default", "a", nil)
	again.until("removal", ofType(api.PodRemoved, ""))
	again.clean()
}

func TestRestartAndPreviousLog(t *testing.T) {
	r := newRig(t, "", nil)
	r.apply(simple("a", "sleep:1", ""))
	r.until("start", ofType(api.ContainerStarted, "app"))
	r.cri.kill("app", 1)
	r.until("second start", func(e api.Event) bool { return e.Type == api.ContainerStarted && e.Attempt == 1 })
	var now, before bytes.Buffer
	if err := r.Logs(t.Context(), "default", "a", "app", api.LogOptions{}, &now); err != nil {
		t.Fatal(err)
	}
	if err := r.Logs(t.Context(), "default", "a", "app", api.LogOptions{Previous: true}, &before); err != nil {
		t.Fatal(err)
	}
	if now.String() != "hello from app/1\n" || before.String() != "hello from app/0\n" {
		t.Errorf("logs %q and %q", now.String(), before.String())
	}
	followed := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		r.Logs(context.WithoutCancel(t.Context()), "default", "a", "app", api.LogOptions{Follow: true}, &b)
		followed <- b.String()
	}()
	time.Sleep(20 * time.Millisecond)
	r.cri.kill("app", 0)
	if got := <-followed; got != "hello from app/1\n" {
		t.Errorf("followed: %q", got)
	}
}

// TestAdoption: a new daemon takes a running pod over and touches nothing of it.
func TestAdoption(t *testing.T) {
	r := newRig(t, "", nil)
	uid := r.apply(twoContainers)[0].UID
	r.until("ready", ofType(api.PodReady, ""))
	r.stop()
	before := fmt.Sprint(r.cri.calls)
	again := newRig(t, r.root, r.cri)
	again.until("ready again", ofType(api.PodReady, ""))
	if got := fmt.Sprint(again.cri.calls); got != before {
		t.Errorf("calls before %s, after %s", before, got)
	}
	pod, err := again.Pod(t.Context(), "default", "web")
	if err != nil || pod.UID != uid || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Fatalf("%+v, %v", pod, err)
	}
	if same := again.apply(twoContainers); same[0].UID != uid {
		t.Error("the same manifest made another pod after the restart")
	}
	// It still acts on what happens, over a stream that breaks first.
	again.cri.mu.Lock()
	for _, ch := range again.cri.streams {
		close(ch)
	}
	clear(again.cri.streams)
	again.cri.mu.Unlock()
	again.cri.kill("side", 1)
	again.until("restart", func(e api.Event) bool {
		return e.Type == api.ContainerStarted && e.Container == "side" && e.Attempt == 1
	})
	again.Delete(t.Context(), "default", "web", nil)
	again.until("removal", ofType(api.PodRemoved, ""))
	again.clean()
}

// TestGrace: a container that ignores SIGTERM is killed when its time is up, sooner if one asks again.
func TestGrace(t *testing.T) {
	r := newRig(t, "", nil)
	r.apply(simple("a", "deaf:1", ""))
	r.until("start", ofType(api.ContainerStarted, "app"))
	hour, zero := int64(3600), int64(0)
	pod, err := r.Delete(t.Context(), "default", "a", &hour)
	if err != nil || *pod.DeletionGracePeriodSeconds != 3600 || pod.DeletionTimestamp == nil {
		t.Fatalf("%+v, %v", pod, err)
	}
	if _, err := r.Apply(t.Context(), []byte(simple("a", "deaf:1", ""))); !apierrors.IsConflict(err) {
		t.Errorf("a pod of the name of one that goes: %v", err)
	}
	if _, err := r.Delete(t.Context(), "default", "a", &zero); err != nil {
		t.Fatal(err)
	}
	r.until("removal", ofType(api.PodRemoved, ""))
	if e := r.until("exit", ofType(api.ContainerExited, "app")); *e.ExitCode != 137 {
		t.Errorf("exit code %d", *e.ExitCode)
	}
	r.clean()
	if err := r.Shutdown(t.Context(), true); err != nil {
		t.Errorf("shutdown of an idle node: %v", err)
	}
}

// TestStrangers: another CRI client's pods are not touched.
func TestStrangers(t *testing.T) {
	cri := newFakeCRI()
	r := newRig(t, "", cri)
	r.apply(simple("a", "sleep:1", ""))
	r.until("start", ofType(api.ContainerStarted, "app"))
	r.stop()
	stranger := newRig(t, "", cri) // knows nothing of pod a
	time.Sleep(50 * time.Millisecond)
	if got := stranger.cri.count(); got != "1 sandboxes, 1 containers" {
		t.Errorf("now there are %s", got)
	}
	if err := stranger.Shutdown(t.Context(), true); !apierrors.IsConflict(err) {
		t.Errorf("shutdown beside a stranger's pod: %v", err)
	}
}

func TestStrayFolderIsRemoved(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "kubelet/pods", "uid1")
	os.MkdirAll(filepath.Join(dir, "volumes/kubernetes.io~empty-dir/v"), 0o700)
	os.WriteFile(filepath.Join(dir, recordFile+".tmp"), []byte("{"), 0o600)
	newRig(t, root, nil).clean()
	os.MkdirAll(dir, 0o700)
	os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o600)
	_, err := New(Config{Root: root, Runtime: newFakeCRI(), Images: newFakeCRI()})
	if err == nil || !strings.Contains(err.Error(), "repair or remove it") {
		t.Errorf("a torn record: %v", err)
	}
}
