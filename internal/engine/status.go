package engine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/engine/stage"
)

// StatusPaused is the status of a frozen container, which the runtime-spec leaves to runtimes to name.
const StatusPaused specs.ContainerState = "paused"

// Park leaves a created container to another process, which starts it by Adopt with
// AdoptOptions.Parked: its child waits at the unix socket path, which is made and is to be in a private
// directory. Start is no longer possible here.
func (c *Container) Park(path string) error {
	c.mu.Lock()
	s := c.stage
	c.stage = nil
	c.mu.Unlock()
	if s == nil {
		return fmt.Errorf("park container %s: it was started before: %w", c.state.ID, os.ErrInvalid)
	}
	defer s.Close()
	if err := s.Park(path); err != nil {
		return fmt.Errorf("park container %s: %w", c.state.ID, err)
	}
	return nil
}

// Status asks the kernel what has become of the container: created, running, paused or stopped. parked is
// the socket that it was parked at, "" if it was not.
func (st State) Status(parked string) (specs.ContainerState, error) {
	if !st.alive() {
		return specs.StateStopped, nil
	}
	group, err := cgroup.Load(st.CgroupPath)
	if err != nil {
		return "", fmt.Errorf("status of container %s: %w", st.ID, err)
	}
	switch frozen, err := group.Frozen(); {
	case errors.Is(err, cgroup.ErrUnsupported):
	case err != nil && st.alive():
		return "", fmt.Errorf("status of container %s: %w", st.ID, err)
	case err != nil:
		return specs.StateStopped, nil
	case frozen:
		return StatusPaused, nil
	}
	if st.waiting(parked) {
		return specs.StateCreated, nil
	}
	return specs.StateRunning, nil
}

// waiting tells whether the first process is still the stage. The socket is removed by whoever starts the
// container; but should that one die in between, the program tells.
func (st State) waiting(parked string) bool {
	if parked == "" {
		return false
	}
	if _, err := os.Lstat(parked); err != nil {
		return false
	}
	exe, err := os.Readlink("/proc/" + strconv.Itoa(st.Pid) + "/exe")
	return err == nil && stage.IsExecutable(exe)
}

// alive tells whether the first process is there and no zombie.
func (st State) alive() bool {
	if st.Pid <= 0 {
		return false
	}
	at, err := startTime(st.Pid)
	if err != nil || at != st.StartTime {
		return false
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(st.Pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(b)[strings.LastIndex(string(b), ") ")+2:]
	return rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}
