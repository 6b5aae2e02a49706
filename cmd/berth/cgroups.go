package main

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/11f9778f/berth/internal/config"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/systemd"
)

// cgroups tells whether systemd makes the cgroups, and the cgroup above all pods; "" follows from the run folder.
func cgroups(l *config.Loaded) (driven bool, parent string, err error) {
	driven = l.Cgroup.Driver == "systemd" || l.Cgroup.Driver == "auto" && systemd.Runs()
	if parent = l.Cgroup.Parent; !driven || parent == "" {
		return driven, parent, nil
	}
	slice, err := cgroup.SlicePath(path.Base(parent))
	if err != nil || slice == "/" || strings.Contains(parent, "/") && parent != slice {
		return driven, parent, l.Mistake("cgroup.parent", "\""+parent+"\" is no slice, which systemd needs: write it like \"berth.slice\"")
	}
	return driven, slice, nil
}

// findSystemd tells what is wrong if systemd is to make the cgroups and does not answer.
func findSystemd(ctx context.Context, l *config.Loaded) error {
	if driven, _, _ := cgroups(l); !driven {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	d, err := systemd.Connect(ctx, true)
	if err != nil {
		return l.Mistake("cgroup.driver", err.Error())
	}
	d.Close()
	return nil
}
