package client

import (
	"bytes"
	"errors"
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
		"\b\x03\x12\x12unix:///run/x.sock\x1a\x05ttrpc":                   "unix:///run/x.sock", // a message of containerd 2.3
		`{"version":9,"address":"unix:///run/x.sock"}`:                    "",
		`{}`: "", "": "", "panic: oops": "", "tcp://1.2.3.4:5": "",
	} {
		got, err := parseBootstrap([]byte(in))
		if err != nil {
			got.Address = ""
		}
		if got.Address != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got.Address, err)
		}
	}
}

func TestNewOptions(t *testing.T) {
	type table = map[string]any
	for _, c := range []struct {
		binary string
		table  table
		typ    string // of the message, or
		bad    string // the option that is refused
		holds  string
	}{
		{"/usr/bin/containerd-shim-runc-v2", nil, "", "", ""},
		{"/usr/bin/containerd-shim-runc-v2", table{"BinaryName": "crun", "SystemdCgroup": true, "IoUid": int64(7)}, "containerd.runc.v1.Options", "", "crun"},
		{"containerd-shim-runc-v2", table{"Binary": "crun"}, "", "Binary", ""},
		{"containerd-shim-runc-v2", table{"BinaryName": true}, "", "BinaryName", ""},
		{"containerd-shim-runc-v2", table{"BinaryName": "/usr/bin/runsc"}, "", "BinaryName", ""},
		{"containerd-shim-runc-v2", table{"IoUid": int64(-1)}, "", "IoUid", ""},
		{"containerd-shim-runsc-v1", table{"TypeUrl": "io.containerd.runsc.v1.options", "ConfigPath": "/etc/runsc.toml"}, "runtimeoptions.v1.Options", "", "/etc/runsc.toml"},
		{"containerd-shim-runsc-v1", table{"ConfigPath": "runsc.toml"}, "", "ConfigPath", ""},
		{"containerd-shim-kata-v2", table{"ConfigPath": int64(3)}, "", "ConfigPath", ""},
		{"containerd-shim-x-v1", table{"a": table{"b": int64(1)}}, "runtimeoptions.v1.Options", "", "[a]\nb = 1"},
	} {
		o, err := NewOptions(c.binary, c.table)
		var bad *BadOption
		if errors.As(err, &bad) != (c.bad != "") || bad != nil && bad.Key != c.bad {
			t.Errorf("%s %v: %v", c.binary, c.table, err)
		}
		if o.TypeURL != c.typ || !bytes.Contains(o.Value, []byte(c.holds)) {
			t.Errorf("%s %v: %q %q", c.binary, c.table, o.TypeURL, o.Value)
		}
	}
}

func FuzzParseBootstrap(f *testing.F) {
	f.Add(`{"version":3,"address":"unix:///run/x.sock","protocol":"ttrpc"}`)
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := parseBootstrap([]byte(in)); err == nil && got.Address == "" {
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
