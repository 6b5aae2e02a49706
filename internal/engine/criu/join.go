package criu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// joinOf enters the IPC and UTS namespaces of a process.
func joinOf(pid int, ipc, uts bool) error {
	for _, ns := range []struct {
		name string
		flag int
		join bool
	}{{"ipc", unix.CLONE_NEWIPC, ipc}, {"uts", unix.CLONE_NEWUTS, uts}} {
		if !ns.join {
			continue
		}
		path := fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name)
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.Setns(int(f.Fd()), ns.flag)
		f.Close()
		if err != nil {
			return fmt.Errorf("enter %s: %w", path, err)
		}
	}
	return nil
}
