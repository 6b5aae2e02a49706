package client

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/11f9778f/berth/internal/shim/state"
)

func TestParseBootstrap(t *testing.T) {
	for in, want := range map[string]string{
		"unix:///run/x.sock\n": "unix:///run/x.sock",
		"/run/x.sock":          "/run/x.sock",
		`{"version":3,"address":"unix:///run/x.sock","protocol":"ttrpc"}`: "unix:///run/x.sock",
		`{"version":3,"address":"unix:///run/x.sock","protocol":"grpc"}`:  "",
		`{}`: "", "": "", "panic: oops": "", "tcp://1.2.3.4:5": "",
	} {
		got, err := parseBootstrap(strings.NewReader(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add(`{"version":3,"address":"unix:///run/x.sock","protocol":"ttrpc"}`)
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := parseBootstrap(strings.NewReader(in)); err == nil && got == "" {
			t.Fatal("no address and no error")
		}
	})
}

func FuzzGroupRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"data":{"id":"abc","binary":"/b","sandboxes":["p"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var rec groupRecord
		_ = state.Parse(b, &rec)
	})
}

func FuzzTranslateEvent(f *testing.F) {
	f.Add("/tasks/exit", []byte("\n\x02c1"))
	f.Add("/tasks/oom", []byte{0xff})
	f.Fuzz(func(t *testing.T, topic string, b []byte) {
		if e, ok := translate(&types.Envelope{Topic: topic, Event: &anypb.Any{Value: b}}); ok && e.ContainerID == "" {
			t.Fatal("an event about nothing")
		}
	})
	if _, ok := translate(nil); ok {
		f.Error("an event out of nothing")
	}
}
