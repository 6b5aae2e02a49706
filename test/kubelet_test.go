package test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/node"
)

// stockKubelet is upstream's kubelet, standalone with static pods, on a node's CRI socket.
type stockKubelet struct {
	*machine
	static, cgroup string
	port           int
	http           *http.Client
	cmd            *exec.Cmd
	log            *growing
	alone          bool // there was no varLibKubelet before
}

const (
	kubeletNode = "berth-test"
	// varLibKubelet is where it puts its sockets for device plugins, whatever --root-dir says.
	varLibKubelet = "/var/lib/kubelet"
)

// startKubelet starts it beside a CRI daemon. Everything that it makes is in the test's folder or below a
// cgroup of the test's own.
func startKubelet(m *machine) *stockKubelet {
	m.t.Helper()
	bin, err := filepath.Abs("../.cache/bin/kubelet")
	if err != nil {
		m.t.Fatal(err)
	}
	k := &stockKubelet{
		machine: m, static: filepath.Join(m.dir, "static"), cgroup: node.NamesFor(m.run).CgroupParent + "-kubelet", port: freePort(m.t), log: &growing{},
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
	}
	if err := os.Mkdir(k.static, 0o755); err != nil {
		m.t.Fatal(err)
	}
	_, err = os.Lstat(varLibKubelet)
	k.alone = os.IsNotExist(err)
	k.makeCgroup()
	config := m.file("kubelet.yaml", fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
port: %d
healthzPort: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %s
failCgroupV1: false
failSwapOn: false
staticPodPath: %s
podLogsDir: %s
volumePluginDir: %s
containerRuntimeEndpoint: unix://%s
fileCheckFrequency: 1s
enforceNodeAllocatable: []
evictionHard: {memory.available: 1Mi, nodefs.available: 0.1%%, imagefs.available: 0.1%%}
makeIPTablesUtilChains: false
registerNode: false
`, k.port, k.cgroup, k.static, filepath.Join(m.dir, "pods"), filepath.Join(m.dir, "plugins"), m.criSocket()))
	k.cmd = exec.Command(bin, "--config", config, "--root-dir", k.folder(), "--cert-dir", filepath.Join(m.dir, "pki"), "--hostname-override", kubeletNode, "--v", "2")
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	if err := k.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	return k
}

func (k *stockKubelet) folder() string { return filepath.Join(k.dir, "kubelet") }

// hierarchies are where the test's cgroup is made.
func (k *stockKubelet) hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	tops, _ := filepath.Glob("/sys/fs/cgroup/*")
	return tops
}

func (k *stockKubelet) makeCgroup() {
	for _, top := range k.hierarchies() {
		dir := filepath.Join(top, k.cgroup)
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			continue // not a hierarchy
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // a cpuset of v1 begins empty
			if b, err := os.ReadFile(filepath.Join(top, f)); err == nil {
				os.WriteFile(filepath.Join(dir, f), b, 0o644)
			}
		}
	}
}

// end ends the kubelet and takes away what it leaves by design.
func (k *stockKubelet) end() {
	k.cmd.Process.Signal(syscall.SIGTERM)
	k.cmd.Wait()
	if k.t.Failed() {
		k.t.Logf("kubelet:\n%s", tail(k.log.String(), 60))
	}
	c := dialCRI(k.t, k.criSocket())
	if left, err := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{}); err == nil {
		for _, sb := range left.Items {
			c.removePod(sb.Id)
		}
	}
	var points []string
	eachLine("/proc/self/mountinfo", func(line string) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], k.folder()) {
			points = append(points, f[4])
		}
	})
	for i := len(points) - 1; i >= 0; i-- { // it binds its folder to itself, and leaves that
		syscall.Unmount(points[i], syscall.MNT_DETACH)
	}
	all := cgroups(k.cgroup)
	for i := len(all) - 1; i >= 0; i-- {
		if err := syscall.Rmdir(all[i]); err != nil {
			k.t.Errorf("cgroup %s is left: %v", all[i], err)
		}
	}
	if k.alone {
		os.RemoveAll(varLibKubelet)
	}
	links, _ := filepath.Glob("/var/log/containers/*" + kubeletNode + "*")
	for _, l := range links {
		os.Remove(l)
	}
	os.Remove("/var/log/containers")
}

// get asks the kubelet's API.
func (k *stockKubelet) get(method, path string) (string, error) {
	req, err := http.NewRequest(method, fmt.Sprintf("https://127.0.0.1:%d%s", k.port, path), nil)
	if err != nil {
		return "", err
	}
	resp, err := k.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, b)
	}
	return string(b), err
}

func (k *stockKubelet) status(name string) *v1.Pod {
	body, err := k.get("GET", "/pods")
	var list v1.PodList
	if err != nil || json.Unmarshal([]byte(body), &list) != nil {
		return nil
	}
	for i := range list.Items {
		if list.Items[i].Name == name+"-"+kubeletNode {
			return &list.Items[i]
		}
	}
	return nil
}

func statusOf(pod *v1.Pod, container string) v1.ContainerStatus {
	for _, st := range append(append([]v1.ContainerStatus(nil), pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		if st.Name == container {
			return st
		}
	}
	return v1.ContainerStatus{}
}

// The pod has something of everything that a kubelet does with a runtime.
const kubeletPod = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 10
  volumes: [{name: www, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}, {name: host, hostPath: {path: HOSTDIR, type: Directory}}]
  initContainers:
  - name: page
    image: berth.local/demo:latest
    imagePullPolicy: IfNotPresent
    args: [demo, write-page, /www/index.html]
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts: [{name: www, mountPath: /www}]
  - name: sidecar
    image: berth.local/demo:latest
    imagePullPolicy: IfNotPresent
    restartPolicy: Always
    args: [demo, watch, --every, 100ms, /www/index.html]
    startupProbe: {exec: {command: [/berth, version]}, periodSeconds: 1}
    volumeMounts: [{name: www, mountPath: /www, readOnly: true}]
  containers:
  - name: web
    image: berth.local/demo:latest
    imagePullPolicy: IfNotPresent
    args: [demo, serve, "--listen=:8090", --dir, /www]
    resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {memory: 32Mi, cpu: 10m}}
    readinessProbe: {httpGet: {port: 8090, path: /}, periodSeconds: 1}
    livenessProbe: {exec: {command: [/berth, version]}, periodSeconds: 1}
    volumeMounts: [{name: www, mountPath: /www}, {name: memory, mountPath: /memory}, {name: host, mountPath: /host, readOnly: true}]
  - name: flaky
    image: berth.local/demo:latest
    imagePullPolicy: IfNotPresent
    args: [demo, show, --wait, 2s, --exit, "3"]
`

// Upstream's kubelet, newest version, with berth cri in containerd's place.
func TestStockKubelet(t *testing.T) {
	if _, err := os.Stat("../.cache/bin/kubelet"); err != nil {
		t.Skip("needs upstream's kubelet, which make conformance-kubelet builds; that takes many minutes")
	}
	m := newMachine(t)
	d := m.criDaemon(nil)
	defer stopCRI(m)
	k := startKubelet(m)
	defer k.end()
	host := filepath.Join(m.dir, "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	m.file("host/note", "from the host\n")
	m.file("static/web.yaml", strings.Replace(kubeletPod, "HOSTDIR", host, 1))
	m.eventually("the pod runs, its sidecar and its web server are ready", func() bool {
		p := k.status("web")
		return p != nil && p.Status.Phase == v1.PodRunning && statusOf(p, "web").Ready && statusOf(p, "sidecar").Ready && p.Status.PodIP != ""
	})
	pod := k.status("web")
	if st := statusOf(pod, "page"); st.State.Terminated == nil || st.State.Terminated.ExitCode != 0 {
		t.Errorf("init container: %+v", st.State)
	}
	body, code := get(t, "http://"+pod.Status.PodIP+":8090/")
	if code != 200 || !strings.Contains(body, "Hello from web-"+kubeletNode) {
		t.Errorf("the page: %d %s", code, body)
	}
	t.Run("exec and logs", func(t *testing.T) { k.with(t).execAndLogs() })
	t.Run("limits", func(t *testing.T) { k.with(t).limits(statusOf(pod, "web").ContainerID) })
	t.Run("restarts", func(t *testing.T) { k.with(t).restarts() })
	t.Run("the daemon dies", func(t *testing.T) { k.with(t).daemonDies(m, d) })
	t.Run("deletion", func(t *testing.T) { k.with(t).deletion() })
}

func (k *stockKubelet) with(t *testing.T) *stockKubelet {
	next, m := *k, *k.machine
	m.t, next.machine = t, &m
	return &next
}

func (k *stockKubelet) execAndLogs() {
	t := k.t
	out, err := k.get("POST", "/run/default/web-"+kubeletNode+"/web?cmd="+url.QueryEscape("/berth demo show --file /host/note"))
	if err != nil || !strings.Contains(out, "/host/note: from the host") {
		t.Errorf("run: %v %s", err, out)
	}
	u, _ := url.Parse(fmt.Sprintf("https://127.0.0.1:%d/exec/default/web-%s/web?command=/berth&command=demo&command=show&command=--exit&command=7&output=1&error=1", k.port, kubeletNode))
	x, err := remotecommand.NewSPDYExecutor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var stdout bytes.Buffer
	err = x.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "exit code 7") || !strings.Contains(stdout.String(), "uid=0") {
		t.Errorf("exec through the kubelet: %v, %q", err, stdout.String())
	}
	if out, err := k.get("GET", "/containerLogs/default/web-"+kubeletNode+"/web"); err != nil || !strings.Contains(out, "serving /www") {
		t.Errorf("logs: %v %s", err, out)
	}
	if out, err := k.get("GET", "/containerLogs/default/web-"+kubeletNode+"/web?tailLines=1&timestamps=true"); err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("the last line: %v %q", err, out)
	}
	k.eventually("the kubelet's summary has the pod's numbers", func() bool {
		out, err := k.get("GET", "/stats/summary")
		return err == nil && strings.Contains(out, `"name": "web-`+kubeletNode+`"`) && strings.Contains(out, "workingSetBytes")
	})
}

// limits looks at the kernel, not at what anybody says.
func (k *stockKubelet) limits(id string) {
	id = strings.TrimPrefix(id, "berth://")
	var found []string
	for _, dir := range cgroups(k.cgroup) {
		if filepath.Base(dir) != id {
			continue
		}
		for _, f := range []string{"memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max"} {
			if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil {
				found = append(found, f+"="+strings.TrimSpace(string(b)))
			}
		}
	}
	all := strings.Join(found, " ")
	if !strings.Contains(all, "=67108864") || !strings.Contains(all, "=50000") {
		k.t.Errorf("the limits of container %s are %s", id, all)
	}
}

func (k *stockKubelet) restarts() {
	k.eventually("the flaky container was started again", func() bool {
		p := k.status("web")
		return p != nil && statusOf(p, "flaky").RestartCount >= 1
	})
	st := statusOf(k.status("web"), "flaky")
	if last := st.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Reason != "Error" {
		k.t.Errorf("its last end: %+v", st.LastTerminationState)
	}
	if out, err := k.get("GET", "/containerLogs/default/web-"+kubeletNode+"/flaky?previous=true"); err != nil || !strings.Contains(out, "uid=0") {
		k.t.Errorf("logs of the previous one: %v %s", err, out)
	}
}

func (k *stockKubelet) daemonDies(m *machine, d *command) {
	before := statusOf(k.status("web"), "web")
	d.cmd.Process.Kill()
	d.wait()
	time.Sleep(2 * time.Second) // the kubelet notices, and must not act on it
	m.criDaemon(nil)            // of the whole test, not of this part
	time.Sleep(3 * time.Second)
	k.eventually("the kubelet has its runtime back", func() bool {
		out, err := k.get("POST", "/run/default/web-"+kubeletNode+"/web?cmd="+url.QueryEscape("/berth version"))
		return err == nil && strings.Contains(out, "berth")
	})
	if after := statusOf(k.status("web"), "web"); after.ContainerID != before.ContainerID || after.RestartCount != before.RestartCount {
		k.t.Errorf("before %+v, after %+v", before, after)
	}
}

// deletion: the container is asked to end, gets to say its last words, and nothing of the pod runs on.
func (k *stockKubelet) deletion() {
	c := dialCRI(k.t, k.criSocket())
	words := make(chan string, 1)
	go func() {
		out, _ := k.get("GET", "/containerLogs/default/web-"+kubeletNode+"/web?follow=true")
		words <- out
	}()
	time.Sleep(500 * time.Millisecond)
	if err := os.Remove(filepath.Join(k.static, "web.yaml")); err != nil {
		k.t.Fatal(err)
	}
	k.eventually("nothing runs any more", func() bool {
		running, err := c.ListContainers(c.ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
		ready, err2 := c.ListPodSandbox(c.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
		return err == nil && err2 == nil && len(running.Containers) == 0 && len(ready.Items) == 0 && k.status("web") == nil
	})
	select {
	case out := <-words:
		if !strings.Contains(out, "asked to end: good-bye") {
			k.t.Errorf("its last words are missing:\n%s", tail(out, 5))
		}
	case <-time.After(patience):
		k.t.Error("the log is followed for ever")
	}
}
