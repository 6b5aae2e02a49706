package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// containerState is what state and list print. Owner is the state directory's, and state leaves it empty,
// as runc does.
type containerState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (e *entry) state() (containerState, error) {
	status, err := e.status()
	if err != nil {
		return containerState{}, err
	}
	r := e.rec
	s := containerState{
		Version: r.Version, ID: r.ID, Pid: r.Engine.Pid, Status: status, Bundle: r.Bundle, Rootfs: r.Rootfs,
		Created: r.Created, Annotations: r.Annotations,
	}
	if status == specs.StateStopped {
		s.Pid = 0
	}
	return s, nil
}

// state prints the state of a container.
func (a *app) state(_ context.Context, args []string) error {
	id, err := a.one(a.flags("state"), args)
	if err != nil {
		return err
	}
	e, err := a.store().open(id)
	if err != nil {
		return err
	}
	s, err := e.state()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	_, err = a.Out.Write(b)
	return err
}

// list prints all containers of the root.
func (a *app) list(_ context.Context, args []string) error {
	f := a.flags("list")
	format := f.String("format", "table", "table or json")
	f.alias("f", "format")
	quiet := f.Bool("quiet", false, "print ids only")
	f.alias("q", "quiet")
	if _, err := a.arguments(f, args, true, 0, 0); err != nil {
		return err
	}
	states, err := a.states()
	if err != nil {
		return err
	}
	switch {
	case *quiet:
		for _, s := range states {
			fmt.Fprintln(a.Out, s.ID)
		}
		return nil
	case *format == "json":
		return json.NewEncoder(a.Out).Encode(states)
	case *format != "table":
		return errors.New("invalid format option")
	}
	w := tabwriter.NewWriter(a.Out, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}

// states reads all containers; one that can't be read is told of and left out.
func (a *app) states() ([]containerState, error) {
	dirs, err := os.ReadDir(a.root)
	if errors.Is(err, fs.ErrNotExist) && !a.rootSet {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var states []containerState
	for _, d := range dirs {
		info, err := d.Info()
		if err != nil || !d.IsDir() {
			continue // gone meanwhile, or not ours
		}
		e, err := a.store().open(d.Name())
		var s containerState
		if err == nil {
			s, err = e.state()
		}
		if err != nil {
			if !errors.Is(err, errNotExist) {
				fmt.Fprintf(a.Err, "load container %s: %v\n", d.Name(), err)
			}
			continue
		}
		s.Owner = owner(info)
		states = append(states, s)
	}
	return states, nil
}

func owner(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	uid := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return "#" + uid
}
