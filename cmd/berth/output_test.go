package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/11f9778f/berth/internal/trace"
)

func TestExitCodeTellsOnce(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
		said string
	}{
		{nil, 0, ""},
		{errors.New("it broke"), 1, "berth: it broke\n"},
		{fmt.Errorf("run: %w", exited(42)), 42, ""},
		{fail("do that", "this is %s", "wrong"), 1, "berth: this is wrong: do that\n"},
		{&failure{err: errors.New("bad flag"), remedy: "see --help", code: 2}, 2, "berth: bad flag: see --help\n"},
	} {
		var b bytes.Buffer
		if code := exitCode(tt.err, &b); code != tt.code || b.String() != tt.said {
			t.Errorf("%v: code %d, said %q; want %d, %q", tt.err, code, b.String(), tt.code, tt.said)
		}
	}
}

func TestAgeAndSizeAreForPeople(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for d, want := range map[time.Duration]string{
		0: "0s", 59 * time.Second: "59s", 60 * time.Second: "1m", 90 * time.Minute: "1h30m", 72 * time.Hour: "3d", -time.Second: "0s",
	} {
		if got := age(now.Add(-d), now); got != want {
			t.Errorf("age %v is %s, want %s", d, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("age of never is %s", got)
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size %d is %s, want %s", n, got, want)
		}
	}
}

func TestPodsAreListedByContainer(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	p := v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default", CreationTimestamp: metav1.NewTime(now.Add(-5 * time.Second))},
		Spec: v1.PodSpec{
			InitContainers: []v1.Container{{Name: "done"}, {Name: "stuck"}},
			Containers:     []v1.Container{{Name: "web", Ports: []v1.ContainerPort{{ContainerPort: 80, HostPort: 8080, HostIP: "127.0.0.1"}}}, {Name: "late"}},
		},
		Status: v1.PodStatus{
			PodIP: "10.88.0.2",
			InitContainerStatuses: []v1.ContainerStatus{
				{Name: "done", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{}}},
				{Name: "stuck", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 3}}, RestartCount: 2},
			},
			ContainerStatuses: []v1.ContainerStatus{{Name: "web", Ready: true, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}},
		},
	}
	var b bytes.Buffer
	if err := writePods(&b, []v1.Pod{p}, false, now); err != nil {
		t.Fatal(err)
	}
	want := `POD     CONTAINER   STATE        READY   RESTARTS   IP          PORTS               AGE
hello   stuck       exited (3)   no      2          10.88.0.2   127.0.0.1:8080→80   5s
        web         running      yes     0
        late        waiting      no      0
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestSpansAreDrawnInsideEachOther(t *testing.T) {
	at := time.Unix(0, 0)
	var b bytes.Buffer
	writeSpans(&b, []trace.Span{
		{Name: "inner", Start: at.Add(2 * time.Millisecond), Duration: 3 * time.Millisecond},
		{Name: "outer", Start: at, Duration: 10 * time.Millisecond},
		{Name: "after", Start: at.Add(10 * time.Millisecond), Duration: 10 * time.Millisecond},
	})
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")[1:]
	for i, want := range []string{"│ outer", "│   inner", "│ after"} {
		if !strings.HasSuffix(lines[i], want) {
			t.Errorf("line %d is %q, want it to end with %q", i, lines[i], want)
		}
	}
	b.Reset()
	writeSpans(&b, nil)
	if !strings.Contains(b.String(), "nothing") {
		t.Errorf("no spans: %q", b.String())
	}
}

func TestPodNames(t *testing.T) {
	for arg, want := range map[string]string{"hello": "hello", "pod/hello": "hello", "kube-system/dns": "kube-system/dns", "default/x": "x"} {
		if got := parsePod(arg).String(); got != want {
			t.Errorf("%s names %s, want %s", arg, got, want)
		}
	}
}

// Every verb on images prints JSON for who asks, and takes the namespace.
func TestImageVerbsHaveJSON(t *testing.T) {
	verbs := (&cli{}).imageCommand().Commands()
	if len(verbs) < 13 {
		t.Fatalf("%d verbs", len(verbs))
	}
	for _, cmd := range verbs {
		if f := cmd.Flag("output"); f == nil || !strings.Contains(f.Usage, "json") {
			t.Errorf("%s has no -o json", cmd.CommandPath())
		}
		if f := cmd.InheritedFlags().Lookup("namespace"); f == nil || f.Shorthand != "n" {
			t.Errorf("%s has no -n", cmd.CommandPath())
		}
	}
}
