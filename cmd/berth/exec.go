package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *cli) execCommand() *cobra.Command {
	var container string
	var stdin, tty bool
	cmd := &cobra.Command{
		Use:   "exec POD [-c CONTAINER] -- COMMAND [ARG…]",
		Short: "Run a command in a running container",
		Long:  "Run a command in a running container. Its exit code is berth's.",
		Example: "  berth exec hello -- /berth version\n  berth exec -it shell -- sh\n" +
			"  berth exec -i shell -c app -- tar -x -C /data < data.tar",
		Args: needArgs(2, "the name of a pod and, after --, a command"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return c.completePods(cmd, args, s)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if tty && !(terminal(c.in) && terminal(c.out)) {
				return fail("leave out -t", "-t needs a terminal, and this is none")
			}
			return c.exec(cmd.Context(), parsePod(args[0]), container, args[1:], stdin, tty)
		},
	}
	cmd.Flags().BoolVarP(&stdin, "stdin", "i", false, "give the command what is typed or piped in")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().StringVarP(&container, "container", "c", "", "the container (default: the pod's first)")
	cmd.RegisterFlagCompletionFunc("container", c.completeContainers)
	return cmd
}

func (c *cli) exec(ctx context.Context, name podName, container string, argv []string, stdin, tty bool) error {
	h, err := c.mustConnect(ctx)
	if err != nil {
		return err
	}
	defer h.Close()
	pod, err := findPod(ctx, h, name)
	if err != nil {
		return err
	}
	id, err := runningContainer(pod, container)
	if err != nil {
		return err
	}
	info, err := h.node.Info(ctx)
	if err != nil {
		return err
	}
	u, err := execURL(ctx, info.CRI, id, argv, stdin, tty)
	if err != nil {
		return err
	}
	return c.stream(ctx, u, stdin, tty)
}

// runningContainer is the CRI's ID of a running container of the pod.
func runningContainer(pod *v1.Pod, want string) (string, error) {
	n, err := pickContainer(pod, want)
	if err != nil {
		return "", err
	}
	st := statusOf(pod.Status.ContainerStatuses, n)
	if st == nil {
		st = statusOf(pod.Status.InitContainerStatuses, n)
	}
	if st == nil || st.State.Running == nil {
		return "", fail("see berth ps", "container %s of pod %s is not running", n, nameOf(pod))
	}
	u, err := url.Parse(st.ContainerID) // berth://ID
	if err != nil || u.Host == "" {
		return "", fmt.Errorf("container %s has the ID %q, which is none", n, st.ContainerID)
	}
	return u.Host, nil
}

// execURL asks the CRI for the place where the command's streams can be had.
func execURL(ctx context.Context, socket, id string, argv []string, stdin, tty bool) (*url.URL, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	defer conn.Close()
	resp, err := runtimeapi.NewRuntimeServiceClient(conn).Exec(ctx, &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: argv, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty,
	})
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return url.Parse(resp.GetUrl())
}

// stream connects this process's streams to the command's and returns its exit code as exited.
func (c *cli) stream(ctx context.Context, u *url.URL, stdin, tty bool) error {
	ex, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: u.Host}, "POST", u)
	if err != nil {
		return fmt.Errorf("connect to the command: %w", err)
	}
	o := remotecommand.StreamOptions{Stdout: c.out, Tty: tty}
	if stdin {
		o.Stdin = c.in
	}
	if tty {
		before, err := term.MakeRaw(int(c.in.Fd()))
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer term.Restore(int(c.in.Fd()), before)
		sizes := watchSize(c.out)
		defer sizes.stop()
		o.TerminalSizeQueue = sizes
	} else {
		o.Stderr = c.err
	}
	return execResult(ex.StreamWithContext(ctx, o))
}

// execResult turns the command's exit code into berth's.
func execResult(err error) error {
	var code utilexec.ExitError
	switch {
	case errors.As(err, &code) && code.Exited():
		return exited(code.ExitStatus())
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("run the command: %w", err)
	}
	return nil
}

// sizeQueue tells remotecommand of each new size of the terminal.
type sizeQueue struct {
	out     io.Writer
	changed chan os.Signal
	done    chan struct{}
}

func watchSize(out io.Writer) *sizeQueue {
	q := &sizeQueue{out: out, changed: make(chan os.Signal, 1), done: make(chan struct{})}
	q.changed <- syscall.SIGWINCH // the first size
	signal.Notify(q.changed, syscall.SIGWINCH)
	return q
}

func (q *sizeQueue) stop() {
	signal.Stop(q.changed)
	close(q.done)
}

// Next waits for a change; nil ends the queue.
func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	for {
		select {
		case <-q.done:
			return nil
		case <-q.changed:
		}
		f, ok := q.out.(*os.File)
		if !ok {
			continue
		}
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			return &remotecommand.TerminalSize{Width: uint16(w), Height: uint16(h)}
		}
	}
}
