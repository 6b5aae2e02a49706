package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/config"
	"github.com/11f9778f/berth/internal/node"
	"github.com/11f9778f/berth/internal/sys"
)

// daemonOf is what tells berth node and berth cri apart.
type daemonOf struct {
	criOnly  bool
	idleExit time.Duration
}

// daemon runs a node until SIGTERM or Ctrl-C. SIGHUP makes it read its configuration again, SIGUSR2 makes
// the binary that is at its path by now take its place: same process, same arguments, pods untouched.
func (c *cli) daemon(cmd *cobra.Command, of daemonOf) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1) // one that comes while the node starts waits here
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	load := func() (*config.Loaded, error) { return c.load(cmd, allSettings()) }
	loaded, err := load()
	if err == nil {
		err = findSystemd(ctx, loaded)
	}
	if err != nil {
		return err
	}
	d := &daemon{level: new(slog.LevelVar), load: load, loaded: loaded}
	d.log = newLog(c.err, loaded.Log.Format, d.level)
	d.setLevel()
	if err := sys.SlackTimers(time.Millisecond); err != nil {
		d.log.Debug("timers stay as they are", "err", err)
	}
	cfg := nodeConfig(loaded, d.log)
	cfg.CRIOnly, cfg.IdleExit = of.criOnly, of.idleExit

	ready := make(chan struct{})
	cfg.Ready = func() {
		d.tell(systemd.SdNotifyReady)
		close(ready)
	}
	defer context.AfterFunc(ctx, func() { d.tell(systemd.SdNotifyStopping) })()
	upgrade := upgradeOn(syscall.SIGUSR2, stop)
	d.node = node.New(cfg, version)
	ended := make(chan struct{})
	finish := func() { stop(); <-ended }
	go func() {
		defer close(ended)
		select {
		case <-ready:
			d.reloads(ctx, hup)
		case <-ctx.Done():
		}
	}()
	err = d.node.Run(ctx)
	finish()
	if wanted := upgrade(); wanted && err == nil {
		d.log.Info("the binary is executed anew")
		return execAnew()
	}
	return err
}

// upgradeOn calls stop when the signal comes. The function that it returns ends that, and tells whether
// the signal came.
func upgradeOn(sig os.Signal, stop func()) func() bool {
	came, over := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(came, sig)
	wanted := false
	var waiting sync.WaitGroup
	waiting.Go(func() {
		select {
		case <-came:
			wanted = true
			stop()
		case <-over:
		}
	})
	return func() bool {
		close(over)
		waiting.Wait()
		return wanted
	}
}

// execAnew replaces this process by the binary that is at its path now.
func execAnew() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the berth binary: %w", err)
	}
	if err := syscall.Exec(exe, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("execute %s: %w", exe, err)
	}
	return nil
}

// daemon is a node and its configuration.
type daemon struct {
	log    *slog.Logger
	level  *slog.LevelVar
	node   *node.Node
	load   func() (*config.Loaded, error)
	loaded *config.Loaded
}

func newLog(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func (d *daemon) setLevel() {
	var level slog.Level
	if level.UnmarshalText([]byte(d.loaded.Log.Level)) == nil { // it was checked
		d.level.Set(level)
	}
}

// reloads takes over what can be changed each time that SIGHUP comes.
func (d *daemon) reloads(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			d.tell(systemd.SdNotifyReloading, systemd.SdNotifyMonotonicUsec())
			d.reload()
			d.tell(systemd.SdNotifyReady)
		}
	}
}

// reload reads the configuration again. One with a mistake changes nothing.
func (d *daemon) reload() {
	next, err := d.load()
	if err != nil {
		d.log.Error("the configuration stays as it was, for the new one has mistakes", "error", err)
		return
	}
	changes := d.loaded.Changes(next)
	for _, ch := range changes {
		if ch.Reload {
			d.log.Info("configuration changed", "key", ch.Key, "from", ch.Old, "to", ch.New)
		} else {
			d.log.Warn("configuration changed, and holds after a restart", "key", ch.Key, "from", ch.Old, "to", ch.New)
		}
	}
	d.loaded.Adopt(next) // what needs a restart is told again at the next reload, for it still does not hold
	d.setLevel()
	d.node.Tune(tunable(d.loaded))
	d.log.Info("configuration was read again", "changes", len(changes))
}

// tell tells the service manager, if one started this process.
func (d *daemon) tell(state ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(state, "\n")); err != nil {
		d.log.Warn("the service manager can't be told", "state", state, "error", err)
	}
}
