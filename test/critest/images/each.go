package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const (
	e2e = "e2e-test-images/"
	cri = "k8s-staging-cri-tools/"
)

// busybox is what most specs run. Its applets are hard links, for one spec masks /bin/ls alone. The
// shell must execute what it finds in PATH (the same spec runs "ls" through it), which the static
// busybox does not do for its own applets: sh is the dynamic one.
func (m *maker) busybox() error {
	t := tree{}
	t.dir(0o755, "bin", "etc", "root", "home", "var", "var/run", "usr", "usr/bin", "usr/sbin", "sbin", "proc", "sys", "dev")
	t.dir(0o1777, "tmp")
	static, err := find([]tree{m.debs["busybox-static"]}, "busybox")
	if err != nil {
		return err
	}
	static.mode = 0o755
	t["bin/busybox"] = static
	applets, err := applets(static.data)
	if err != nil {
		return err
	}
	for _, a := range applets {
		if a != "busybox" && a != "sh" && a != "ash" {
			t.hardLink("bin/"+a, "bin/busybox")
		}
	}
	dynamic, err := find([]tree{m.debs["busybox"]}, "busybox")
	if err != nil {
		return err
	}
	dynamic.mode = 0o755
	t["bin/sh"] = dynamic
	t.hardLink("bin/ash", "bin/sh")
	dir, loader := multiarch()
	if err := t.libraries([]tree{m.debs["libc6"]}, dir, loader, "libc.so.6", "libresolv.so.2"); err != nil {
		return err
	}
	if err := t.program("bin/pgrep", m.toolbox, 0o755); err != nil { // streaming specs look for a sleep
		return err
	}
	t.hardLink("bin/ipcs", "bin/pgrep") // specs of the IPC namespace
	t.add("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
		"www-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n")
	t.add("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nnogroup:x:65534:\n")
	if m.base, err = t.layer(); err != nil {
		return err
	}
	return m.onBusybox(v1.Config{Cmd: []string{"sh"}}, nil, e2e+"busybox:1.29-2")
}

// applets asks a busybox which it has.
func applets(program []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "critest-busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "busybox")
	if err := os.WriteFile(bin, program, 0o755); err != nil {
		return nil, err
	}
	out, err := exec.Command(bin, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// pause is pulled under several names by image specs.
func (m *maker) pause() error {
	t := tree{}
	if err := t.program("pause", m.toolbox, 0o755); err != nil {
		return err
	}
	l, err := t.layer()
	if err != nil {
		return err
	}
	return m.image(v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}, []v1.Layer{l}, "pause:3.9", "pause:3.10")
}

// noNewPrivs runs a setuid program and tells its effective user.
func (m *maker) noNewPrivs() error {
	t := tree{}
	if err := t.program("nnp", m.toolbox, 0o4755); err != nil {
		return err
	}
	return m.onBusybox(v1.Config{Entrypoint: []string{"/nnp"}}, t, e2e+"nonewprivs:1.3")
}

// nginx is the web server of the network and streaming specs; one of them wants it at port 12003 of the
// host's network.
func (m *maker) nginx() error {
	dir, loader := multiarch()
	t := tree{}
	t.dir(0o755, "usr", "usr/sbin", "usr/share", "usr/share/nginx", "usr/share/nginx/html", "etc", "etc/nginx",
		"var", "var/log", "var/log/nginx", "var/lib", "var/lib/nginx", "run")
	var pkgs []tree
	for _, p := range packages[2:] {
		pkgs = append(pkgs, m.debs[p])
	}
	bin, err := find([]tree{m.debs["nginx"]}, "nginx")
	if err != nil {
		return err
	}
	bin.mode = 0o755
	t["usr/sbin/nginx"] = bin
	err = t.libraries(pkgs, dir, loader, "libc.so.6", "libcrypt.so.1", "libpcre2-8.so.0", "libssl.so.3", "libcrypto.so.3", "libz.so.1")
	if err != nil {
		return err
	}
	t.add("usr/share/nginx/html/index.html", 0o644, "<html><body><h1>Welcome to nginx!</h1></body></html>\n")
	t.add("etc/nginx/nginx.conf", 0o644, nginxConf(80))
	cfg := v1.Config{Entrypoint: []string{"/usr/sbin/nginx"}}
	if err := m.onBusybox(cfg, t, e2e+"nginx:1.14-2"); err != nil {
		return err
	}
	t.add("etc/nginx/nginx.conf", 0o644, nginxConf(12003))
	return m.onBusybox(cfg, t, cri+"hostnet-nginx-"+runtime.GOARCH+":latest")
}

func nginxConf(port int) string {
	return fmt.Sprintf(`daemon off;
user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
	access_log /dev/stdout;
	server {
		listen %d;
		location / { root /usr/share/nginx/html; index index.html; }
	}
}
`, port)
}

// httpd says "httpd" when it starts, which a spec looks for in its log.
func (m *maker) httpd() error {
	t := tree{}
	t.dir(0o755, "www", "bin")
	t.add("www/index.html", 0o644, "<html><body><h1>It works!</h1></body></html>\n")
	t.add("bin/httpd-foreground", 0o755, "#!/bin/sh\necho 'httpd -D FOREGROUND: resuming normal operations' >&2\nexec httpd -f -p 80 -h /www\n")
	return m.onBusybox(v1.Config{Cmd: []string{"/bin/httpd-foreground"}}, t, e2e+"httpd:2.4.39-4")
}

// users are images that differ in who they run as.
func (m *maker) users() error {
	for n, user := range map[string]string{
		"user-uid": "1002", "user-username": "www-data", "user-uid-group": "1003:1004", "user-username-group": "www-data:1004",
	} {
		if err := m.onBusybox(v1.Config{Cmd: []string{"sh"}, User: user}, nil, cri+"test-image-"+n+":latest"); err != nil {
			return err
		}
	}
	t := tree{}
	t.dir(0o755, "etc")
	t.add("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\n")
	t.add("etc/group", 0o644, "root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")
	return m.onBusybox(v1.Config{Cmd: []string{"sh"}, User: "1000"}, t, cri+"test-image-predefined-group:latest")
}

// plain are images that are pulled, listed and removed, and of which one spec runs one. The one that is
// pulled by its digest holds nothing that changes with Debian or with us.
func (m *maker) plain() error {
	for n, names := range map[string][]string{
		"1": {"1:latest"}, "2": {"2:latest"}, "3": {"3:latest"}, "latest": {"latest:latest"},
		"tags": {"tags:1", "tags:2", "tags:3"}, "tag": {"tag:test", "tag:all"},
	} {
		t := tree{}
		t.add("test-image", 0o644, n+"\n")
		for i := range names {
			names[i] = cri + "test-image-" + names[i]
		}
		// It stays: the spec removes the container without stopping it, and containerd takes one that ends just then for running.
		if err := m.onBusybox(v1.Config{Cmd: []string{"sleep", "3600"}}, t, names...); err != nil {
			return err
		}
	}
	t := tree{}
	t.add("test-image", 0o644, "digest\n")
	l, err := t.layer()
	if err != nil {
		return err
	}
	if err := m.image(v1.Config{Cmd: []string{"sh"}}, []v1.Layer{l}, cri+"test-image-digest:latest"); err != nil {
		return err
	}
	m.set.Digest, err = m.set.Images[len(m.set.Images)-1].Image.Digest()
	return err
}
