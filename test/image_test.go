package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The verbs on images with a registry, a mirror, an archive, a pod and a policy.
func TestImageTraffic(t *testing.T) {
	m, w := newMachine(t), newWarehouse(t)
	certs, policy := filepath.Join(m.dir, "certs.d"), filepath.Join(m.dir, "policy.json")
	if err := os.MkdirAll(filepath.Join(certs, "registry.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.file("certs.d/registry.example/hosts.toml", fmt.Sprintf("[host.%q]\n", "http://"+w.host))
	m.file("policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	m.env = []string{"BERTH_CONFIG=" + m.file("config.toml", fmt.Sprintf("[images]\nregistry_dirs = [%q]\npolicy = %q\n", certs, policy))}
	node := m.node()
	const far = "registry.example/team/app:1"
	near := w.host + "/team/app:1"

	m.must("image", "tag", "berth.local/demo", near)
	if out := m.must("image", "push", near).stdout; !strings.HasPrefix(out, w.host+"/team/app@sha256:") {
		t.Errorf("push said %q", out)
	}
	for _, word := range []string{"http://" + w.host + "/v2/team/app/manifests/1?ns=registry.example (mirror)", "without credentials", "accepted without a signature"} {
		if out := m.must("image", "explain", far).stdout; !strings.Contains(out, word) {
			t.Errorf("explain does not say %q:\n%s", word, out)
		}
	}
	m.must("image", "pull", far) // by the mirror: the registry itself does not exist
	m.must("image", "pin", far)
	archive := filepath.Join(m.dir, "app.tar")
	m.must("image", "export", far, "-f", archive)
	m.must("image", "rm", far)
	if r := m.berth("image", "inspect", far); r.code == 0 || !strings.Contains(r.stderr, "not in the store") {
		t.Errorf("inspect of a removed image: %d %s", r.code, r.stderr)
	}
	m.must("image", "import", archive)

	file := m.file("pod.yaml", strings.ReplaceAll(pod("user", "terminationGracePeriodSeconds: 1\n", container("app", "demo", "show", "--wait", "1h")), "berth.local/demo:latest", far))
	m.must("run", "-d", file)
	var images []struct{ UsedBy []string }
	if err := json.Unmarshal([]byte(m.must("image", "inspect", far).stdout), &images); err != nil || len(images) != 1 || strings.Join(images[0].UsedBy, "") != "container app of pod default/user" {
		t.Errorf("inspect: %+v, %v", images, err)
	}
	m.must("image", "prune")
	if out := m.must("image", "ls").stdout; !strings.Contains(out, far) {
		t.Errorf("prune removed an image in use:\n%s", out)
	}
	m.must("rm", "user")

	m.file("policy.json", `{"default":[{"type":"reject"}]}`)
	refused(t, m, file, "image policy", "rejects "+far)
	m.must("image", "prune")
	if out := m.must("image", "ls", "-o", "json").stdout; strings.TrimSpace(out) != "[]" {
		t.Errorf("prune left:\n%s", out)
	}
	node.signal(syscall.SIGTERM)
	if r := node.wait(); r.code != 0 {
		t.Errorf("the node ended with %d:\n%s", r.code, r.stderr)
	}
}

// Namespaces: people's images beside those of pods, in one store.
func TestImageNamespaces(t *testing.T) {
	m, w := newMachine(t), newWarehouse(t)
	node := m.node()
	name := w.host + "/team/app:1"
	m.must("image", "tag", "berth.local/demo", name)
	m.must("image", "push", name)
	m.must("image", "rm", name)

	m.must("image", "pull", "-n", "people", name)
	m.env = append(m.env, "BERTH_IMAGE_NAMESPACE=people")
	m.must("image", "pin", name)
	if out := m.must("images").stdout; !strings.Contains(out, name) {
		t.Errorf("berth images with the namespace in the environment:\n%s", out)
	}
	if r := m.berth("image", "inspect", "-n", "k8s.io", name); r.code == 0 || !strings.Contains(r.stderr, "not in the store") {
		t.Errorf("pods see people's images: %d %s", r.code, r.stderr)
	}
	if r := m.berth("image", "ls", "-n", "no/name"); r.code == 0 || !strings.Contains(r.stderr, `--namespace: images.namespace: "no/name"`) {
		t.Errorf("a bad namespace: %d %s", r.code, r.stderr)
	}
	file := m.file("pod.yaml", strings.ReplaceAll(pod("user", "terminationGracePeriodSeconds: 1\n", container("app", "demo", "show", "--wait", "1h")), "berth.local/demo:latest", name))
	m.must("run", "-d", file)
	var images []struct {
		Namespace string
		UsedBy    []string
		Pinned    bool
	}
	for _, args := range [][]string{{"-n", "people"}, {"-n", "k8s.io"}} {
		if err := json.Unmarshal([]byte(m.must(append([]string{"image", "inspect", name}, args...)...).stdout), &images); err != nil || len(images) != 1 ||
			images[0].Namespace != args[1] || images[0].Pinned != (args[1] == "people") || (len(images[0].UsedBy) > 0) != (args[1] == "k8s.io") {
			t.Errorf("inspect %v: %+v, %v", args, images, err)
		}
	}
	m.must("rm", "user")
	m.must("image", "prune", "-n", "k8s.io")
	if out := m.must("image", "ls", "-A").stdout; !strings.Contains(out, name) || !strings.Contains(out, "people") || strings.Contains(out, "k8s.io") {
		t.Errorf("after k8s.io was pruned:\n%s", out)
	}
	m.must("image", "rm", name)
	if out := m.must("image", "ls", "-A", "-o", "json").stdout; strings.TrimSpace(out) != "[]" {
		t.Errorf("left:\n%s", out)
	}
	node.signal(syscall.SIGTERM)
	if r := node.wait(); r.code != 0 {
		t.Errorf("the node ended with %d:\n%s", r.code, r.stderr)
	}
}
