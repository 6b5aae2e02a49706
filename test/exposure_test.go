package test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Nobody but root looks into what a node makes (CVE-2024-25621), not even below a name that he knows, and no pod finds a
// socket of the node by the host's network (CVE-2020-15257).
func TestNothingIsExposed(t *testing.T) {
	m := newMachine(t)
	m.node()
	m.must("run", "-d", m.file("pods.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: canary}\n---\n"+
		pod("curious", "hostNetwork: true\nterminationGracePeriodSeconds: 0\nvolumes: [{name: v, secret: {secretName: s}}]",
			with(container("app", "demo", "show", "--file", "/proc/net/unix", "--wait", "1h"), "volumeMounts: [{name: v, mountPath: /v}]"))))
	m.running("curious", 1)

	for _, dir := range []string{m.root, m.run} {
		for _, args := range [][]string{{"find", dir, "-mindepth", "1"}, {"ls", filepath.Join(dir, "kubelet")}, {"ls", filepath.Join(dir, "shims")}} {
			find := exec.Command(args[0], args[1:]...)
			find.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := find.Output(); err == nil || len(out) > 0 {
				t.Errorf("nobody sees by %q:\n%s", args, out)
			}
		}
	}

	var sockets string
	m.eventually("the pod has looked for sockets", func() bool {
		sockets = m.must("logs", "curious").stdout
		return strings.Contains(sockets, "uid=")
	})
	if !strings.Contains(sockets, filepath.Join(m.run, "shims")) {
		t.Fatalf("the pod does not see the host's network: the test tests nothing\n%s", sockets)
	}
	for line := range strings.Lines(sockets) {
		if f := strings.Fields(line); len(f) == 8 && strings.HasPrefix(f[7], "@") && (strings.Contains(f[7], "berth") || strings.Contains(f[7], m.dir)) {
			t.Errorf("an abstract socket, which every pod on the host's network can connect to: %s", line)
		}
	}
	m.must("rm", "curious")
	stopNode(m)
}
