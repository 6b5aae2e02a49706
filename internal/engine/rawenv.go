package engine

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// rawEnv is the annotation that carries what JSON can't: environment variables that are no UTF-8, base64 of
// "KEY=value" with a NUL behind each.
const rawEnv = "org.berth.raw-env"

// KeepRawEnv makes a spec survive being written as JSON: variables whose bytes are no UTF-8 go into an annotation,
// too, and LoadSpec puts them back. Another runtime sees them with replacement characters.
func KeepRawEnv(s *specs.Spec) {
	if s.Process == nil {
		return
	}
	raw := RawEnv(s.Process)
	if len(raw) == 0 {
		return
	}
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations[rawEnv] = base64.StdEncoding.EncodeToString([]byte(strings.Join(raw, "\x00") + "\x00"))
}

// RawEnv are the variables of a process that are no UTF-8.
func RawEnv(p *specs.Process) (raw []string) {
	if p == nil {
		return nil
	}
	for _, kv := range p.Env {
		if !utf8.ValidString(kv) {
			raw = append(raw, strings.Clone(kv)) // nobody keeps the whole text that it is a part of
		}
	}
	return raw
}

// restoreRawEnv undoes what JSON did to the variables of KeepRawEnv.
func restoreRawEnv(s *specs.Spec) error {
	text, ok := s.Annotations[rawEnv]
	if !ok || s.Process == nil {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("annotation %s: %w", rawEnv, err)
	}
	raw := map[string]string{}
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if key, _, ok := strings.Cut(kv, "="); ok {
			raw[key] = kv
		}
	}
	for i, kv := range s.Process.Env {
		key, _, _ := strings.Cut(kv, "=")
		if whole, ok := raw[key]; ok {
			s.Process.Env[i] = whole
		}
	}
	return nil
}

// MendEnv undoes what JSON did to the variables of a process that is to run in a container of the spec and has the
// container's environment: one that reads as a variable of the container's that is no UTF-8 is that variable.
func MendEnv(container *specs.Process, p *specs.Process) {
	raw := map[string]string{}
	for _, kv := range RawEnv(container) {
		raw[asJSON(kv)] = kv
	}
	if len(raw) == 0 {
		return
	}
	for i, kv := range p.Env {
		if whole, ok := raw[kv]; ok {
			p.Env[i] = whole
		}
	}
}

// asJSON is what is left of a string in JSON: each byte that is part of no character becomes a replacement character.
func asJSON(s string) string { return string([]rune(s)) }
