// containerd-shim-berth-v1 is Berth's shim: a small process that keeps a group of pods. Berth's daemon starts it with
// `serve`; a stock containerd, configured with the runtime io.containerd.berth.v1, uses `start` and `delete` of the
// shim v2 protocol. What it does is in internal/shim/server.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/11f9778f/berth/internal/shim/crilog"
	"github.com/11f9778f/berth/internal/shim/launch"
	"github.com/11f9778f/berth/internal/shim/server"
	"github.com/11f9778f/berth/internal/sys"
)

// flags are those of containerd's shim v2 protocol.
type flags struct {
	namespace, id, address, publish, bundle, socket string
	debug, version, info                            bool
}

func main() {
	var f flags
	flag.StringVar(&f.namespace, "namespace", "", "containerd namespace")
	flag.StringVar(&f.id, "id", "", "id of the task, sandbox or group")
	flag.StringVar(&f.address, "address", "", "containerd's gRPC address")
	flag.StringVar(&f.publish, "publish-binary", "", "containerd's binary (not used: events go over ttrpc)")
	flag.StringVar(&f.bundle, "bundle", "", "bundle directory (default: the working directory)")
	flag.StringVar(&f.socket, "socket", "", "not used")
	flag.BoolVar(&f.debug, "debug", false, "log more")
	flag.BoolVar(&f.version, "v", false, "print the version")
	flag.BoolVar(&f.info, "info", false, "print the runtime's information for containerd")
	flag.Parse()
	if err := run(f, flag.Arg(0)); err != nil {
		fmt.Fprintf(os.Stderr, "containerd-shim-berth-v1: %v\n", err)
		os.Exit(1)
	}
}

func run(f flags, action string) error {
	switch {
	case f.version:
		fmt.Println("containerd-shim-berth-v1", version())
		return nil
	case f.info:
		return info()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch action {
	case "serve":
		return serve(f)
	case "start":
		return start(ctx, f)
	case "delete":
		return remove(ctx, f)
	}
	return fmt.Errorf("unknown command %q: want start, delete (for containerd) or serve (for Berth)", action)
}

// serve is the shim itself. Signals that are meant for a terminal's foreground do not reach it, since it has a session
// of its own; SIGTERM is ignored as containerd's shims do, for an init system that stops everything must stop pods
// through the daemon.
func serve(f flags) error {
	// Caught and thrown away, not ignored: what is ignored stays so in every program that is executed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	debug.SetGCPercent(200) // no collection for the first containers: see the server's rest
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 4))
	_ = sys.SlackTimers(time.Millisecond) // without the capability for it, all is as right, and slower
	boot, files, err := launch.ReadBoot(os.Stdin)
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if f.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("group", boot.Group, "pid", os.Getpid())
	ctx := context.Background()
	s, err := server.New(server.Config{
		Dir: boot.Dir, Group: boot.Group, Generation: boot.Generation, Namespace: boot.Namespace, EventsAddress: boot.EventsAddress,
		Managed: boot.Managed, LogRotation: crilog.Rotation{Size: boot.LogSize, Files: boot.LogFiles}, Files: files, Engine: server.NewLinux(), Logger: log,
		Execute: func(binary string, files map[string]*os.File) error {
			boot.Generation++
			return launch.Execute(binary, boot, files)
		},
	})
	if err == nil {
		err = s.Recover(ctx)
	}
	if err != nil {
		launch.SayReady(os.Stdout, err)
		return err
	}
	rpc, fd, stream, err := server.Listen(boot.Dir)
	launch.SayReady(os.Stdout, err)
	if err != nil {
		return err
	}
	s.ReapOrphans(ctx)
	if !boot.Managed {
		go sweep(ctx, filepath.Dir(boot.Dir), log)
	}
	return s.Serve(ctx, rpc, fd, stream)
}

// sweep removes what nobody else will: containerd runs `delete` in the bundle, and can't if that is gone.
func sweep(ctx context.Context, stateDir string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := server.Sweep(ctx, server.NewLinux(), stateDir, launch.Lives); err != nil {
		log.Warn("remove what dead shims have left", "err", err)
	}
}

func version() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		return b.Main.Version
	}
	return "unknown"
}
