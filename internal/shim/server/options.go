package server

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/shim/api/containerd"
	"github.com/11f9778f/berth/internal/shim/wire"
)

// parseOptions takes the options of Task.Create into the record: Berth's own, or those of containerd's runc shim, which
// clients send to any shim that they don't know.
func parseOptions(a *wire.Any, rec *record) (start bool, err error) {
	if a == nil || a.TypeURL == "" && len(a.Value) == 0 {
		return false, nil
	}
	switch name := a.Type(); name {
	case "berth.shim.v1.CreateOptions":
		var o api.CreateOptions
		if err := wire.Unmarshal(a.Value, &o); err != nil {
			return false, fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		rec.SandboxID, rec.Stdio.StdinOnce, rec.Foreign, rec.CRIU = o.SandboxId, o.StdinOnce, o.Foreign, o.Criu
		if o.Criu != "" && !filepath.IsAbs(o.Criu) {
			return false, fmt.Errorf("options: criu %q is no absolute path: %w", o.Criu, errdefs.ErrInvalidArgument)
		}
		return o.Start, nil
	case "containerd.runc.v1.Options":
		var o containerd.RuncOptions
		if err := wire.Unmarshal(a.Value, &o); err != nil {
			return false, fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return false, runcOptions(&o, rec)
	case "runtimeoptions.v1.Options":
		return false, genericOptions(a.Value, rec)
	default:
		return false, fmt.Errorf("options: this shim knows no %q: %w", name, errdefs.ErrInvalidArgument)
	}
}

// genericOptions reads what containerd's CRI plugin makes of the options table of a runtime that it does not know: our
// table is runc's, as far as it makes sense.
func genericOptions(raw []byte, rec *record) error {
	var o containerd.GenericOptions
	if err := wire.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if o.ConfigPath != "" {
		return fmt.Errorf("options: ConfigPath %q: this shim reads no configuration file: %w", o.ConfigPath, errdefs.ErrInvalidArgument)
	}
	var runc containerd.RuncOptions
	for line := range strings.Lines(string(o.ConfigBody)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		number, _ := strconv.ParseUint(value, 10, 32)
		switch strings.TrimSpace(key) {
		case "BinaryName":
			runc.BinaryName = value
		case "SystemdCgroup":
			runc.SystemdCgroup = value == "true"
		case "NoNewKeyring":
			runc.NoNewKeyring = value == "true"
		case "NoPivotRoot":
			runc.NoPivotRoot = value == "true"
		case "IoUid":
			runc.IoUid = uint32(number)
		case "IoGid":
			runc.IoGid = uint32(number)
		}
	}
	return runcOptions(&runc, rec)
}

// runcOptions takes what makes sense without runc. The rest is refused where the caller would miss it: the shim's cgroup
// was the business of the `start` command, and the directories of runc and CRIU are nobody's.
func runcOptions(o *containerd.RuncOptions, rec *record) error {
	if o.BinaryName != "" {
		return fmt.Errorf("options: BinaryName %q: this shim runs containers itself and calls no OCI runtime: %w", o.BinaryName, errdefs.ErrInvalidArgument)
	}
	rec.NoPivot, rec.NoKeyring, rec.Scoped = o.NoPivotRoot, o.NoNewKeyring, o.SystemdCgroup
	rec.Stdio.UID, rec.Stdio.GID = int(o.IoUid), int(o.IoGid)
	return nil
}
