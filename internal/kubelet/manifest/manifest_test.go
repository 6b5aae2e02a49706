package manifest

import (
	"bytes"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func parseFile(t *testing.T, name string) *Manifest {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Read(f)
	if err != nil {
		t.Fatalf("parse %s:\n%v", name, err)
	}
	return m
}

func TestFull(t *testing.T) {
	m := parseFile(t, "testdata/full.yaml")
	if len(m.Pods) != 1 || len(m.ConfigMaps) != 1 || len(m.Secrets) != 1 {
		t.Fatalf("got %d pods, %d configmaps, %d secrets", len(m.Pods), len(m.ConfigMaps), len(m.Secrets))
	}
	pod := m.Pods[0]
	app, write := pod.Spec.Containers[0], pod.Spec.InitContainers[0]
	checks := []struct {
		what      string
		got, want any
	}{
		{"namespace", pod.Namespace, "default"},
		{"pull policy without a tag", app.ImagePullPolicy, v1.PullAlways},
		{"pull policy with a tag", write.ImagePullPolicy, v1.PullIfNotPresent},
		{"protocol", app.Ports[0].Protocol, v1.ProtocolTCP},
		{"probe path", app.ReadinessProbe.HTTPGet.Path, "/"},
		{"probe failure threshold", app.ReadinessProbe.FailureThreshold, int32(3)},
		{"liveness period", app.LivenessProbe.PeriodSeconds, int32(10)},
		{"memory request from the limit", app.Resources.Requests.Memory().Cmp(resource.MustParse("64Mi")), 0},
		{"configMap mode", *pod.Spec.Volumes[2].ConfigMap.DefaultMode, int32(0o644)},
		{"item mode is octal", *pod.Spec.Volumes[2].ConfigMap.Items[0].Mode, int32(0o600)},
		{"a volume without a source", pod.Spec.Volumes[5].EmptyDir != nil, true},
		{"stringData", string(m.Secrets[0].Data["token"]), "s3cret"},
		{"termination message", app.TerminationMessagePath, "/dev/termination-log"},
	}
	for _, c := range checks {
		if c.got != c.want {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
	cms, secrets := m.Uses(pod)
	if len(cms) != 1 || len(secrets) != 1 {
		t.Errorf("the pod uses %d configmaps and %d secrets, want 1 and 1", len(cms), len(secrets))
	}
}

func TestHostNetworkTakesContainerPorts(t *testing.T) {
	m, err := Parse([]byte(podDoc("  hostNetwork: true\n", "    ports: [{containerPort: 80}]\n")))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Pods[0].Spec.Containers[0].Ports[0].HostPort; got != 80 {
		t.Errorf("hostPort is %d, want 80", got)
	}
}

func TestListAndJSON(t *testing.T) {
	for name, doc := range map[string]string{
		"list":            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: i}]}}\n",
		"json":            `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`,
		"tabs":            "{\n\t\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},\n\t\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}",
		"stream":          `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"}} {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`,
		"empty documents": "---\n# nothing\n---\n" + podDoc("", "") + "\n---\n",
	} {
		m, err := Parse([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if len(m.Pods) != 1 {
			t.Errorf("%s: %d pods", name, len(m.Pods))
		}
	}
}

// podDoc is a small valid pod with lines added to its spec and to its only container.
func podDoc(spec, container string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n" + spec +
		"  containers:\n  - name: app\n    image: busybox\n" + container
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, doc string
		want      []string
	}{
		{"nothing", "# only a comment\n", []string{"the manifest is empty: it should hold at least one v1 Pod"}},
		{"not YAML", "a: [b\n", []string{"document 1: it is not YAML: "}},
		{"other kind", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n",
			[]string{`deployment "x": apps/v1 Deployment is not something that a node runs; it takes v1 Pod, ConfigMap and Secret documents`}},
		{"no kind", "metadata: {name: x}\n", []string{`apiVersion and kind are needed`}},
		{"unknown field", podDoc("", "    imagee: x\n"), []string{`pod "web": unknown field "spec.containers[0].imagee"`}},
		{"duplicate key", podDoc("", "    image: x\n"), []string{`duplicate field "spec.containers[0].image"`}},
		{"duplicate key, JSON", `{"apiVersion":"v1","kind":"Pod","kind":"Pod","metadata":{"name":"web"}}`, []string{`pod "web": duplicate field "kind"`}},
		{"wrong type", podDoc("  terminationGracePeriodSeconds: soon\n", ""), []string{`pod "web": `, "terminationGracePeriodSeconds"}},
		{"affinity", podDoc("  affinity: {nodeAffinity: {}}\n", ""), []string{`pod "web": spec.affinity: Berth does not do this yet; remove the field`}},
		{"lifecycle", podDoc("", "    lifecycle: {preStop: {sleep: {seconds: 1}}}\n"), []string{`spec.containers[0].lifecycle: Berth does not do this yet`}},
		{"subPath", podDoc("  volumes: [{name: v}]\n", "    volumeMounts: [{name: v, mountPath: /v, subPath: x}]\n"), []string{`spec.containers[0].volumeMounts[0].subPath: Berth does not`}},
		{"nfs", podDoc("  volumes: [{name: v, nfs: {server: a, path: /b}}]\n", ""), []string{`spec.volumes[0].nfs: Berth does not`}},
		{"grpc probe", podDoc("", "    livenessProbe: {grpc: {port: 1}}\n"), []string{`spec.containers[0].livenessProbe.grpc: Berth does not`}},
		{"share pid", podDoc("  shareProcessNamespace: true\n", ""), []string{`spec.shareProcessNamespace: Berth does not`}},
		{"finalizers", "apiVersion: v1\nkind: Pod\nmetadata: {name: web, finalizers: [a/b]}\nspec: {containers: [{name: a, image: b}]}\n", []string{"metadata.finalizers: Berth does not"}},
		{"two containers of one name", podDoc("", "  - {name: app, image: x}\n"), []string{`pod "web": spec.containers[1].name: "app" is used twice`}},
		{"init of that name", podDoc("  initContainers: [{name: app, image: x}]\n", ""), []string{`spec.containers[0].name: "app" is used twice`}},
		{"bad names", "apiVersion: v1\nkind: Pod\nmetadata: {name: Web_1}\nspec: {containers: [{name: A, image: x}]}\n",
			[]string{`metadata.name: "Web_1": a lowercase RFC 1123 subdomain`, `spec.containers[0].name: "A": a lowercase RFC 1123 label`}},
		{"no image", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a}]}\n", []string{"spec.containers[0].image: an image is needed"}},
		{"bad image", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: \"Not An Image\"}]}\n", []string{`"Not An Image" is no image reference`}},
		{"no containers", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {}\n", []string{"spec.containers: at least one container is needed"}},
		{"ports", podDoc("", "    ports: [{containerPort: 70000}, {containerPort: 1, hostPort: -1}, {containerPort: 1, hostPort: 5}, {containerPort: 2, hostPort: 5}]\n"),
			[]string{"ports[0].containerPort: 70000 is not between 1 and 65535", "ports[1].hostPort: -1 is not", "ports[3].hostPort: 5 is used twice"}},
		{"limits below requests", podDoc("", "    resources: {limits: {memory: 1Mi, cpu: \"-1\"}, requests: {memory: 2Mi}}\n"),
			[]string{"resources.requests[memory]: 2Mi is more than the limit 1Mi", "resources.limits[cpu]: -1 is negative"}},
		{"not a quantity", podDoc("", "    resources: {limits: {memory: lots}}\n"), []string{`spec.containers[0].resources.limits.memory: "lots" is not a quantity`}},
		{"other resource", podDoc("", "    resources: {limits: {nvidia.com/gpu: 1}}\n"), []string{`limits[nvidia.com/gpu]: Berth does not do this resource yet`}},
		{"unknown volume", podDoc("", "    volumeMounts: [{name: v, mountPath: /v}]\n"), []string{`volumeMounts[0].name: the pod has no volume "v"`}},
		{"mount twice", podDoc("  volumes: [{name: v}]\n", "    volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v/}]\n"), []string{`volumeMounts[1].mountPath: "/v/" is used twice`}},
		{"volume twice", podDoc("  volumes: [{name: v}, {name: v}]\n", ""), []string{`spec.volumes[1].name: "v" is used twice`}},
		{"two sources", podDoc("  volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}]\n", ""), []string{`spec.volumes[0]: exactly one of`}},
		{"path with dots", podDoc("  volumes: [{name: v, hostPath: {path: /a/../b}}]\n", ""), []string{`hostPath.path: "/a/../b" holds ..`}},
		{"init with readiness", podDoc("  initContainers: [{name: i, image: x, readinessProbe: {tcpSocket: {port: 1}}}]\n", ""), []string{`spec.initContainers[0].readinessProbe: an init container runs to its end`}},
		{"missing configmap", podDoc("", "    env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: k}}}]\n"), []string{`env[0].valueFrom.configMapKeyRef.name: the manifest holds no ConfigMap "m" in namespace "default"`}},
		{"missing key", "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\n" + podDoc("", "    env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n"), []string{`secretKeyRef.key: Secret "s" has no key "k"`}},
		{"unknown field path", podDoc("", "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.foo}}}]\n"), []string{`"spec.foo" is none of the fields`}},
		{"two pods of one name", podDoc("", "") + "---\n" + podDoc("", ""), []string{`metadata.name: "web" is used twice in namespace "default"`}},
		{"two pods, one port", podDoc("", "    ports: [{containerPort: 1, hostPort: 8}]\n") + "---\n" +
			strings.Replace(podDoc("", "    ports: [{containerPort: 1, hostPort: 8}]\n"), "web", "web2", 1), []string{`pod "web2": spec.containers[0].ports[0].hostPort: 8 is used by pod "web" too`}},
		{"restart policy", podDoc("  restartPolicy: Sometimes\n", ""), []string{`"Sometimes" is none of Always, OnFailure and Never`}},
		{"probe without action", podDoc("", "    readinessProbe: {periodSeconds: -1}\n"), []string{"readinessProbe: exactly one of exec, httpGet and tcpSocket", "periodSeconds: -1 is less than 1"}},
		{"probe of an unnamed port", podDoc("", "    readinessProbe: {httpGet: {port: web}}\n"), []string{`httpGet.port: the container has no port named "web"`}},
		{"mode", podDoc("  volumes: [{name: v, secret: {secretName: s, defaultMode: 420000, optional: true}}]\n", ""), []string{"defaultMode: 420000"}},
		{"list in list", "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n", []string{"v1 List is not something"}},
		{"seccomp localhost", podDoc("  securityContext: {seccompProfile: {type: Localhost, localhostProfile: x}}\n", ""), []string{"Berth does not do Localhost profiles yet"}},
		{"uid", podDoc("  securityContext: {runAsUser: 4294967296}\n", ""), []string{"spec.securityContext.runAsUser: 4294967296"}},
		{"relative working directory", podDoc("", "    workingDir: here\n"), []string{`workingDir: "here" is not an absolute path`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.doc))
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got:\n%v\nwant in it:\n%s", err, want)
				}
			}
		})
	}
}

func TestTooLarge(t *testing.T) {
	if _, err := Read(bytes.NewReader(bytes.Repeat([]byte("#"), MaxSize+5))); err == nil || !strings.Contains(err.Error(), "4 MiB") {
		t.Fatalf("got %v", err)
	}
}

// TestAliasBomb: nine levels of ten aliases would be 10⁹ strings.
func TestAliasBomb(t *testing.T) {
	doc := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		prev := string(c - 1)
		doc += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+prev+",", 10), ",") + "]\n"
	}
	if _, err := Parse([]byte(doc)); err == nil || !strings.Contains(err.Error(), "not YAML") {
		t.Fatalf("got %.200v", err)
	}
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod"}]}`))
	f.Add([]byte(podDoc("", "    resources: {limits: {cpu: 1}}\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if (err == nil) == (m == nil) {
			t.Fatal("neither or both of a manifest and an error")
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
		if err == nil && len(m.Pods) > 0 && m.Pods[0].Name == "" {
			t.Fatal("a pod without a name")
		}
	})
}
