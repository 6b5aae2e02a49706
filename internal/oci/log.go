package oci

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// openLog begins the log: the lines are those of runc's logger, since callers read the last one of level
// error from the file and show it.
func (a *app) openLog() error {
	level := slog.LevelInfo
	if a.debug {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: logrusNames}
	var w io.Writer = a.Err
	if a.logFile != "" {
		f, err := os.OpenFile(a.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
		if err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		w, a.toFile = f, true // open until the program ends
	}
	switch a.logFormat {
	case "", "text":
		a.log = slog.New(slog.NewTextHandler(w, options))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(w, options))
	default:
		return fmt.Errorf("invalid log-format: %q", a.logFormat)
	}
	return nil
}

// logrusNames makes slog's attributes those of logrus: level in small letters, time to the second.
func logrusNames(groups []string, attr slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return attr
	}
	switch attr.Key {
	case slog.LevelKey:
		return slog.String("level", strings.ToLower(attr.Value.String()))
	case slog.TimeKey:
		return slog.String("time", attr.Value.Time().Format(time.RFC3339))
	}
	return attr
}

// fail says what went wrong: in the log, and for people on standard error.
func (a *app) fail(err error) {
	if a.log != nil {
		a.log.Error(err.Error())
	}
	if a.log == nil || a.toFile {
		fmt.Fprintln(a.Err, err)
	}
}
