package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// busybox is Debian's busybox-static.
const busybox = "/usr/bin/busybox"

// server is a registry on loopback.
type server struct {
	host  string
	close func()
}

// serveImage serves an image of one busybox under two tags.
func serveImage() (*server, error) {
	img, err := busyboxImage()
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, tag := range []string{"1", "latest"} {
		ref, err := name.ParseReference(host + "/conformance:" + tag)
		if err == nil {
			err = remote.Write(ref, img)
		}
		if err != nil {
			srv.Close()
			return nil, fmt.Errorf("serve image: %w", err)
		}
	}
	return &server{host: host, close: srv.Close}, nil
}

func busyboxImage() (v1.Image, error) {
	bin, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w: install busybox-static", err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		w.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(bin))})
	w.Write(bin)
	for _, n := range []string{"sh", "sleep", "cat", "echo", "true", "dd", "tr", "grep"} {
		w.WriteHeader(&tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/bin/sleep", "1000000"}, Env: []string{"PATH=/bin"}}
	return mutate.ConfigFile(img, file)
}

// daemon is a runtime of this program's own.
type daemon struct {
	socket string
	cmd    *exec.Cmd
	log    *os.File
	ended  chan error
}

func startDaemon(ctx context.Context, dir, berth, containerd, pause string) (*daemon, error) {
	d := &daemon{socket: filepath.Join(dir, "run", "cri.sock"), ended: make(chan error, 1)}
	d.cmd = exec.Command(berth, "--root", filepath.Join(dir, "root"), "--run", filepath.Join(dir, "run"), "node")
	if containerd != "" {
		var err error
		if d.cmd, err = d.containerd(dir, containerd, pause); err != nil {
			return nil, err
		}
	}
	var err error
	if d.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	d.cmd.Stderr, d.cmd.Stdout = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.ended <- d.cmd.Wait() }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", d.socket); err == nil {
			conn.Close()
			return d, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(errors.New("the runtime does not answer"), d.stop())
		}
	}
}

// containerd is a command line for a containerd with nothing of the machine's. Its sandboxes need an image
// whose program rests: ours does.
func (d *daemon) containerd(dir, bins, pause string) (*exec.Cmd, error) {
	d.socket = filepath.Join(dir, "run", "containerd.sock")
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
[grpc]
  address = %q
[ttrpc]
  address = %q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), d.socket, d.socket+".ttrpc", pause)
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	folders := append(filepath.SplitList(bins), filepath.SplitList(os.Getenv("PATH"))...)
	for i, f := range folders {
		abs, err := filepath.Abs(f)
		if err != nil {
			return nil, err
		}
		folders[i] = abs
	}
	cmd := exec.Command(filepath.Join(folders[0], "containerd"), "--config", path)
	cmd.Env = append(os.Environ(), "PATH="+strings.Join(folders, ":"))
	return cmd, nil
}

// stop ends the runtime; where that is an error, its log's end is shown.
func (d *daemon) stop() error {
	d.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-d.ended:
	case <-time.After(time.Minute):
		d.cmd.Process.Kill()
		err = errors.Join(errors.New("it did not end on SIGTERM"), <-d.ended)
	}
	d.log.Close()
	if err == nil {
		return nil
	}
	b, _ := os.ReadFile(d.log.Name())
	lines := strings.Split(string(b), "\n")
	return fmt.Errorf("the runtime: %w\n%s", err, strings.Join(lines[max(0, len(lines)-30):], "\n"))
}

// removeCgroups removes the empty cgroups of a name in all hierarchies.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		for _, depth := range []string{"/*/*", "/*", ""} {
			dirs, _ := filepath.Glob(pattern + name + depth)
			for _, d := range dirs {
				syscall.Rmdir(d) // files and what is in use stay
			}
		}
	}
}
