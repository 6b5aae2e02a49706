package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// berth-oci under a Docker Engine, as a runtime that was added to it.
func TestOCIUnderDocker(t *testing.T) {
	c := needClients(t)
	root := c.rootfs()
	socket := "unix://" + c.dir + "/d.sock"
	parent := "/" + filepath.Base(c.dir)
	c.daemon("dockerd", "--data-root", c.dir+"/data", "--exec-root", c.dir+"/exec", "-H", socket, "--pidfile", c.dir+"/pid",
		"--bridge", "none", "--iptables=false", "--ip6tables=false", "--cgroup-parent", parent,
		"--add-runtime", "berth="+c.runtime, "--default-runtime", "berth")
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*" + parent, "/sys/fs/cgroup" + parent} {
			dirs, _ := filepath.Glob(pattern)
			for _, d := range dirs {
				os.Remove(d)
			}
		}
	})
	docker := func(args ...string) []string { return append([]string{"docker", "-H", socket}, args...) }
	c.eventually("dockerd answers", func() bool { _, code := c.ask(docker("version")...); return code == 0 })
	tar := exec.Command("tar", "-C", root, "-cf", c.dir+"/image.tar", ".")
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	out, code := c.ask(docker("import", c.dir+"/image.tar", "box")...)
	c.want("import", out, code, "sha256:", 0)

	out, code = c.ask(docker("run", "--rm", "--network", "none", "box", "sh", "-c", "echo hello $HOME; exit 5")...)
	c.want("run", out, code, "hello /root", 5)
	out, code = c.ask(docker("run", "--rm", "--network", "none", "-u", "1000", "box", "sh", "-c", "id -u; echo $HOME >/dev/stderr")...)
	c.want("run -u", out, code, "/home/user", 0)
	out, code = c.ask(docker("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "-v", "/etc:/host:ro", "box", "sh", "-c", "touch /tmp/x && cat /host/hostname && touch /x")...)
	c.want("run with mounts", out, code, "Read-only file system", 1)
	out, code = c.ask(docker("run", "--rm", "--network", "none", "box", "nosuchprogram")...)
	c.want("no such program", out, code, "executable file not found in $PATH", 127)
	out, code = c.terminal(docker("run", "--rm", "-t", "--network", "none", "box", "sh", "-c", "'tty; exit 4'")...)
	c.want("run -t", out, code, "/dev/pts/0", 4)

	out, code = c.ask(docker("run", "-d", "--name", "web", "--network", "none", "-m", "64m", "--pids-limit", "50", "box", "sleep", "1000")...)
	c.want("run -d", out, code, "", 0)
	for _, step := range []struct {
		args []string
		out  string
		code int
	}{
		{[]string{"exec", "web", "sh", "-c", "echo inside; exit 3"}, "inside", 3},
		{[]string{"exec", "-w", "/nowhere", "web", "true"}, "nowhere", 126},
		{[]string{"top", "web"}, "sleep 1000", 0},
		{[]string{"stats", "--no-stream", "web"}, "64MiB", 0},
		{[]string{"pause", "web"}, "web", 0},
		{[]string{"ps"}, "(Paused)", 0},
		{[]string{"unpause", "web"}, "web", 0},
		{[]string{"update", "-m", "128m", "--memory-swap", "256m", "--cpus", "0.5", "web"}, "web", 0},
		{[]string{"stats", "--no-stream", "web"}, "128MiB", 0},
		{[]string{"kill", "-s", "USR2", "web"}, "web", 0},
		{[]string{"stop", "-t", "1", "web"}, "web", 0},
		{[]string{"ps", "-a"}, "Exited (137)", 0},
		{[]string{"start", "web"}, "web", 0},
		{[]string{"restart", "-t", "0", "web"}, "web", 0},
		{[]string{"rm", "-f", "web"}, "web", 0},
	} {
		out, code := c.ask(docker(step.args...)...)
		c.want("docker "+strings.Join(step.args, " "), out, code, step.out, step.code)
	}
	out, code = c.terminal(docker("run", "-d", "--name", "tty", "--network", "none", "box", "sleep", "1000")...)
	c.want("run -d", out, code, "", 0)
	out, code = c.terminal(docker("exec", "-it", "tty", "tty")...)
	c.want("exec -it", out, code, "/dev/pts/0", 0)
	out, code = c.ask(docker("rm", "-f", "tty")...)
	c.want("rm", out, code, "tty", 0)
}
