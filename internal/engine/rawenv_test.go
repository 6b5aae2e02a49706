package engine

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Variables of a container that are no UTF-8 are whole in a process that came as JSON; others are as they were sent.
func TestMendEnv(t *testing.T) {
	env := []string{"A=a\xff\xfez", "B=\xe2\x82", "C=ü", "D=\xff"}
	b, err := json.Marshal(specs.Process{Env: append(slices.Clone(env), "D=other")})
	if err != nil {
		t.Fatal(err)
	}
	var p specs.Process
	if err := json.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	MendEnv(&specs.Process{Env: env}, &p)
	if want := append(slices.Clone(env), "D=other"); !slices.Equal(p.Env, want) {
		t.Errorf("%q, want %q", p.Env, want)
	}
	MendEnv(nil, &p)
}
