package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// runcHandler configures a node with the handler "runc": containerd's runc shim over Berth's own OCI runtime.
func runcHandler(t *testing.T) *machine {
	t.Helper()
	shim, err := filepath.Abs("../.cache/containerd/bin/containerd-shim-runc-v2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(shim); err != nil {
		t.Skip("needs containerd's runc shim, make containerd")
	}
	m := newMachine(t)
	file := m.file("config.toml", fmt.Sprintf(`
[handlers.runc]
shim = %q
options = { BinaryName = %q }
pod_annotations = ["dev.example/*"]
`, shim, binary("berth-oci")))
	m.env = append(m.env, "BERTH_CONFIG="+file)
	return m
}

// A pod of a handler whose shim is containerd's: it runs, it outlives kill -9 of the daemon with its log, and goes.
func TestForeignHandler(t *testing.T) {
	m := runcHandler(t)
	manifest := m.file("pod.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  runtimeClassName: runc
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: berth.local/demo:latest
    command: [/berth, demo, show, --wait, 1h]
`)
	n := m.node()
	m.must("run", "-d", manifest)
	m.must("exec", "other", "--", "/berth", "version")
	m.eventually("the container's log is there", func() bool { return m.must("logs", "other").stdout != "" })
	before := m.running("other", 2) // the container, and what stands for the sandbox
	n.kill()
	n = m.node()
	if after := m.running("other", 2); !slices.Equal(before, after) {
		t.Errorf("processes before kill -9 of the daemon: %v, after: %v", before, after)
	}
	m.must("exec", "other", "--", "/berth", "version")
	m.must("rm", "other")
	m.must("fsck")
	n.signal(syscall.SIGTERM)
	n.wait()
}
