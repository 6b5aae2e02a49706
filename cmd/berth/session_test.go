package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/11f9778f/berth/internal/kubelet/api"
)

func testSession(t *testing.T, o runOptions) (*session, *bytes.Buffer) {
	t.Helper()
	var out, err bytes.Buffer
	c := &cli{out: &out, err: &err}
	s := newSession(c, &handle{Client: api.NewClient(filepath.Join(t.TempDir(), "nobody"))}, o, nil)
	s.began = time.Now()
	s.track([]v1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", UID: "u"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "a"}, {Name: "b"}}},
	}})
	return s, &err
}

func terminated(name string, code int32, at int64) v1.ContainerStatus {
	return v1.ContainerStatus{Name: name, State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Unix(at, 0)}}}
}

func TestTheFirstFailureIsTheRunsExitCode(t *testing.T) {
	s, _ := testSession(t, runOptions{})
	s.handle(context.Background(), api.Event{Type: api.PodChanged, UID: "u", Status: &v1.PodStatus{
		Phase: v1.PodFailed, ContainerStatuses: []v1.ContainerStatus{terminated("a", 5, 20), terminated("b", 6, 10)},
	}})
	s.removal = "all containers have ended"
	if err := s.outcome(); err != exited(6) {
		t.Errorf("outcome is %v, want exit code 6", err)
	}
}

func TestAskedToEndIsNoFailure(t *testing.T) {
	s, _ := testSession(t, runOptions{})
	s.handle(context.Background(), api.Event{Type: api.PodChanged, UID: "u", Status: &v1.PodStatus{
		Phase: v1.PodFailed, ContainerStatuses: []v1.ContainerStatus{terminated("a", 143, 20)},
	}})
	s.removal = "asked to end"
	if err := s.outcome(); err != nil {
		t.Errorf("outcome is %v", err)
	}
}

func TestHopelessWarningsEndTheRun(t *testing.T) {
	s, said := testSession(t, runOptions{})
	s.handle(context.Background(), api.Event{Type: api.Warning, UID: "u", Container: "a", Reason: "Unhealthy", Message: "not yet"})
	if s.failure != nil {
		t.Fatalf("a probe that fails is no reason to end: %v", s.failure)
	}
	if !strings.Contains(said.String(), "not yet") {
		t.Errorf("said %q", said)
	}
	s.handle(context.Background(), api.Event{Type: api.Warning, UID: "u", Container: "a", Reason: "ErrImagePull", Message: "there is no such image"})
	if s.failure == nil || s.failure.Error() != "pod p, container a: there is no such image" {
		t.Errorf("failure is %v", s.failure)
	}
}

func TestOthersEventsAreIgnored(t *testing.T) {
	s, said := testSession(t, runOptions{})
	before := said.String()
	s.handle(context.Background(), api.Event{Type: api.PodReady, UID: "other", Pod: "other"})
	if said.String() != before {
		t.Errorf("said %q", said)
	}
}

func TestHostPortsAreToldOnce(t *testing.T) {
	s, said := testSession(t, runOptions{})
	e := api.Event{UID: "u", HostPorts: []api.HostPort{
		{HostIP: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Protocol: "TCP", Container: "web"},
		{HostPort: 53, ContainerPort: 53, Protocol: "UDP", Container: "dns"},
	}}
	e.Type = api.PodNetwork
	s.handle(context.Background(), e)
	e.Type = api.PodReady
	s.handle(context.Background(), e)
	if n := strings.Count(said.String(), "http://127.0.0.1:8080 → web:80"); n != 1 {
		t.Errorf("told %d times: %s", n, said)
	}
	if !strings.Contains(said.String(), "127.0.0.1:53/UDP → dns:53") {
		t.Errorf("no UDP port: %s", said)
	}
}

func TestManifestsAreReadTogether(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	for f, body := range map[string]string{one: "kind: A", two: "kind: B\n"} {
		if err := os.WriteFile(f, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := readManifests([]string{one, "-", two}, strings.NewReader("kind: C"))
	if err != nil || string(b) != "kind: A\n---\nkind: C\n---\nkind: B\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := readManifests([]string{"-"}, strings.NewReader("  \n")); err == nil {
		t.Error("an empty manifest was taken")
	}
}
