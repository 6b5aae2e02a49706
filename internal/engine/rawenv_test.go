package engine

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Variables are bytes, and JSON is text: what is written comes back.
func TestRawEnv(t *testing.T) {
	env := []string{"A=b", "RAW=a\xff\xfe=z", "ÄÖ=ü", "LAST=\x80"}
	s := &specs.Spec{Process: &specs.Process{Env: slices.Clone(env)}}
	KeepRawEnv(s)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseSpec(b)
	if err != nil || !slices.Equal(back.Process.Env, env) {
		t.Errorf("%q, %v", back.Process.Env, err)
	}
	if back, err := new(SpecCache).parse(b); err != nil || !slices.Equal(back.Process.Env, env) {
		t.Errorf("with shared profiles: %q, %v", back.Process.Env, err)
	}
	plain := &specs.Spec{Process: &specs.Process{Env: []string{"A=b"}}}
	if KeepRawEnv(plain); plain.Annotations != nil {
		t.Errorf("%v", plain.Annotations)
	}
	if _, err := ParseSpec([]byte(`{"process":{},"annotations":{"org.berth.raw-env":"***"}}`)); err == nil {
		t.Error("a broken annotation was taken")
	}
}
