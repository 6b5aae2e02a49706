package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/test/stock"
)

// node is a berth node of this program's own.
type node struct {
	dir, berth string
	cmd        *exec.Cmd
	log        *os.File
	ended      chan error
}

// startNode starts a node with more in its environment.
func startNode(ctx context.Context, o options, dir string, env []string) (*node, error) {
	abs, err := filepath.Abs(o.berth)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	n := &node{dir: dir, berth: abs, ended: make(chan error, 1)}
	if n.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		return nil, err
	}
	n.cmd = n.command("node", "--log-level", "debug")
	if o.noPools {
		config := filepath.Join(dir, "config.toml")
		if err := os.WriteFile(config, []byte(stock.NoPools), 0o644); err != nil {
			return nil, err
		}
		n.cmd.Args = append(n.cmd.Args, "--config", config)
	}
	n.cmd.Env = append(os.Environ(), env...)
	n.cmd.Stderr = n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for this program, which stops the node itself
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { n.ended <- n.cmd.Wait() }()
	if err := stock.Await(n.socket(), ctx.Done()); err != nil {
		return nil, errors.Join(errors.New("the node does not answer"), n.stop(true))
	}
	return n, nil
}

func (n *node) command(args ...string) *exec.Cmd {
	return exec.Command(n.berth, append([]string{"--root", filepath.Join(n.dir, "root"), "--run", filepath.Join(n.dir, "run")}, args...)...)
}

func (n *node) socket() string   { return filepath.Join(n.dir, "run", "cri.sock") }
func (n *node) endpoint() string { return "unix://" + n.socket() }

// removePods removes what specs that failed in the middle have left: pods run on without a node.
func (n *node) removePods() error {
	conn, err := grpc.NewClient("unix://"+n.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	list, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var errs []error
	for _, sb := range list.Items {
		_, err := cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sb.Id})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stop ends the node and looks for what it left. If tell is set, the end of its log is shown.
func (n *node) stop(tell bool) error {
	if err := n.removePods(); err != nil {
		fmt.Println("pods are left:", err)
	}
	out, ferr := n.command("fsck").CombinedOutput()
	if ferr != nil {
		ferr = fmt.Errorf("berth fsck: %w: %s", ferr, out)
	}
	n.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-n.ended:
	case <-time.After(time.Minute):
		n.cmd.Process.Kill()
		err = errors.Join(errors.New("it did not end on SIGTERM"), <-n.ended)
	}
	n.log.Close()
	if err != nil {
		err = fmt.Errorf("node: %w", err)
	}
	if left := n.mounts(); len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left mounts:\n%s", strings.Join(left, "")))
	}
	if err = errors.Join(ferr, err); err != nil || tell {
		b, _ := os.ReadFile(n.log.Name())
		lines := strings.Split(string(b), "\n")
		fmt.Printf("--- the end of the node's log\n%s\n", strings.Join(lines[max(0, len(lines)-60):], "\n"))
	}
	return err
}

// mounts are those that are still there below the node's folder.
func (n *node) mounts() []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var left []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " "+n.dir+"/") {
			left = append(left, line)
		}
	}
	return left
}
