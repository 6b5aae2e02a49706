package test

import (
	"fmt"
	"strings"
	"testing"
)

// pod is a manifest of containers on the demo image; spec is more of its spec.
func pod(name, spec string, containers ...string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec:\n%s  containers:\n%s", name, indent(spec, 2), strings.Join(containers, ""))
}

// container is one on the demo image with arguments for /berth.
func container(name string, args ...string) string {
	return fmt.Sprintf("  - name: %s\n    image: berth.local/demo:latest\n    args: [%s]\n", name, `"`+strings.Join(args, `", "`)+`"`)
}

// deaf is a container that does not care for SIGTERM.
func deaf(name string) string {
	return container(name, "demo", "show", "--stderr", "deaf", "--deaf", "--wait", "1h")
}

// with adds fields to a container.
func with(container, fields string) string { return container + indent(fields, 4) }

func indent(text string, by int) string {
	if text == "" {
		return ""
	}
	pad := strings.Repeat(" ", by)
	return pad + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+pad) + "\n"
}

// A pod that comes to an end ends the run, with the exit code of the container that failed.
func TestPodsThatEndEndTheRun(t *testing.T) {
	m := newMachine(t)
	for _, tt := range []struct {
		name, policy string
		exit         string
		code         int
	}{
		{"never-good", "Never", "0", 0},
		{"never-bad", "Never", "7", 7},
		{"onfailure-good", "OnFailure", "0", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := m.file(tt.name+".yaml", pod(tt.name, "restartPolicy: "+tt.policy, container("app", "demo", "show", "--exit", tt.exit)))
			r := m.berth("run", file)
			if r.code != tt.code {
				t.Errorf("exit code %d, want %d\n%s", r.code, tt.code, r.stderr)
			}
			if !strings.Contains(r.stdout, "app | uid=0") {
				t.Errorf("the log of a container that ended at once is missing:\n%s", r.stdout)
			}
		})
	}
}

// A container that fails is started again where the policy says so, and the next instance has the
// log of the one before as --previous.
func TestRestartPolicyStartsAContainerAgain(t *testing.T) {
	m := newMachine(t)
	for _, policy := range []string{"Always", "OnFailure"} {
		name := strings.ToLower(policy)
		file := m.file(name+".yaml", pod(name, "restartPolicy: "+policy, container("app", "demo", "show", "--exit", "3"), container("rest", "demo", "show", "--wait", "1h")))
		m.must("run", "-d", file)
		m.eventually("the container of "+name+" has been started again", func() bool {
			for _, st := range m.pod(name).Status.ContainerStatuses {
				if st.Name == "app" && st.RestartCount > 0 {
					return st.LastTerminationState.Terminated != nil && st.LastTerminationState.Terminated.ExitCode == 3
				}
			}
			return false
		})
		m.must("logs", name, "-c", "app", "--previous")
		m.must("rm", "--grace-period", "0", name)
	}
}

// Init containers run one after the other, before all app containers; one that fails ends a pod that
// is never restarted.
func TestInitContainers(t *testing.T) {
	m := newMachine(t)
	init := "initContainers:\n- name: one\n  image: berth.local/demo:latest\n  args: [demo, show, --wait, 200ms]\n" +
		"- name: two\n  image: berth.local/demo:latest\n  args: [demo, show, --exit, \"%d\"]\n"
	good := m.file("good.yaml", pod("good", "restartPolicy: Never\n"+fmt.Sprintf(init, 0), container("app", "demo", "show")))
	r := m.must("run", good, "--timestamps")
	var order []string
	for _, line := range strings.Split(r.stdout, "\n") {
		if name, _, ok := strings.Cut(line, "|"); ok && strings.Contains(line, "uid=") {
			order = append(order, strings.TrimSpace(name))
		}
	}
	if got := strings.Join(order, " "); got != "one two app" {
		t.Errorf("order of the containers: %s\n%s", got, r.stdout)
	}
	bad := m.file("bad.yaml", pod("bad", "restartPolicy: Never\n"+fmt.Sprintf(init, 9), container("app", "demo", "show")))
	if r := m.berth("run", bad); r.code != 9 || strings.Contains(r.stdout, "app | ") {
		t.Errorf("exit code %d\n%s", r.code, r.stdout)
	}
}

// What a pod is given: ConfigMaps and Secrets as variables and files, fields, expansion, a working
// folder, a user, emptyDir on disk and in memory, a folder of the host.
func TestWhatAPodIsGiven(t *testing.T) {
	m := newMachine(t)
	m.file("on-the-host", "from the host")
	app := with(container("app", "demo", "show", "--env", "WHO", "--env", "WORD", "--env", "POD", "--env", "ALL",
		"--file", "/config/motd", "--file", "/secret/word", "--file", "/host/on-the-host", "--file", "/proc/self/mounts"), `workingDir: /scratch
securityContext: {runAsUser: 1234, runAsGroup: 2345}
env:
- {name: WHO, valueFrom: {configMapKeyRef: {name: settings, key: who}}}
- {name: WORD, valueFrom: {secretKeyRef: {name: hidden, key: word}}}
- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: ALL, value: "$(WHO) at $(POD), $$(WHO)"}
volumeMounts:
- {name: config, mountPath: /config}
- {name: secret, mountPath: /secret}
- {name: scratch, mountPath: /scratch}
- {name: memory, mountPath: /memory}
- {name: host, mountPath: /host, readOnly: true}`)
	spec := `restartPolicy: Never
volumes:
- {name: config, configMap: {name: settings}}
- {name: secret, secret: {secretName: hidden}}
- {name: scratch, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: host, hostPath: {path: ` + m.dir + `}}`
	docs := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {who: world, motd: good day}\n---\n" +
		"apiVersion: v1\nkind: Secret\nmetadata: {name: hidden}\nstringData: {word: open sesame}\n"
	r := m.must("run", m.file("docs.yaml", docs), m.file("given.yaml", pod("given", spec, app)))
	for _, want := range []string{
		"WHO=world", "WORD=open sesame", "POD=given", "ALL=world at given, $(WHO)",
		"/config/motd: good day", "/secret/word: open sesame", "/host/on-the-host: from the host",
		"uid=1234 gid=2345 dir=/scratch", "tmpfs /memory tmpfs rw",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in:\n%s", want, r.stdout)
		}
	}
}

// hostNetwork needs neither bridge nor address.
func TestHostNetwork(t *testing.T) {
	m := newMachine(t)
	file := m.file("host.yaml", pod("host", "restartPolicy: Never\nhostNetwork: true", container("app", "demo", "show", "--file", "/proc/net/dev")))
	if r := m.must("run", file); !strings.Contains(r.stdout, "app | uid=0") {
		t.Errorf("standard output:\n%s", r.stdout)
	}
}

// Limits reach the cgroup.
func TestMemoryLimitEndsAContainer(t *testing.T) {
	m := newMachine(t)
	app := with(container("app", "demo", "show", "--eat", "256"), "resources: {limits: {memory: 64Mi}}")
	r := m.berth("run", m.file("big.yaml", pod("big", "restartPolicy: Never", app)))
	if r.code != 137 || !strings.Contains(r.stderr, "OOMKilled") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
}

// Two manifests at once are two pods, with prefixes that tell them apart; a standard input is a file.
func TestSeveralPodsAndStandardInput(t *testing.T) {
	m := newMachine(t)
	both := pod("one", "restartPolicy: Never", container("app", "demo", "show")) + "---\n" +
		pod("two", "restartPolicy: Never", container("app", "demo", "show", "--exit", "5"))
	r := m.berth("run", m.file("both.yaml", both))
	if r.code != 5 || !strings.Contains(r.stdout, "one/app | uid=0") || !strings.Contains(r.stdout, "two/app | uid=0") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	c := m.beginReading(strings.NewReader(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"json"},"spec":{"restartPolicy":"Never","containers":[{"name":"app","image":"berth.local/demo:latest","args":["demo","show"]}]}}`), "run", "-")
	if r := c.wait(); r.code != 0 || !strings.Contains(r.stdout, "app | uid=0") {
		t.Errorf("exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}
