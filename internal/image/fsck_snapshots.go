package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func (c *check) snapshots(ctx context.Context) error {
	s := c.s
	entries, err := os.ReadDir(s.layout.snapshots)
	if err != nil {
		return err
	}
	projects := map[uint32]string{} // who has which
	for _, e := range entries {
		path := filepath.Join(s.layout.snapshots, e.Name())
		if path == s.snapTrash || strings.HasPrefix(e.Name(), ".new-") {
			continue
		}
		if s.isBlank(e.Name()) {
			c.add(path, "store, blank", 0, "")
			continue
		}
		s.mu.Lock()
		_, ok := s.snaps[e.Name()]
		s.mu.Unlock()
		if !ok {
			if exists(path) {
				c.addBad(path, s.snapTrash, "", 0, unknown, "", false)
			}
			continue
		}
		u, err := s.Usage(ctx, e.Name())
		if err != nil && ctx.Err() != nil {
			return err
		}
		problem := ""
		if !exists(filepath.Join(path, snapshotFileName)) && exists(path) {
			problem = "it has no record; remove its container"
		}
		if id := s.project(path); id != 0 {
			if other := projects[id]; other != "" {
				problem = fmt.Sprintf("it shares the quota of %s, by the project %d; remove its container", other, id)
			}
			projects[id] = e.Name()
		}
		c.add(path, "snapshot "+e.Name(), u.Bytes, problem)
	}
	return nil
}

// projects looks for limits in the filesystem's quota that are left of snapshots that are gone.
func (c *check) projects(context.Context) error {
	if c.s.quota == nil {
		return nil
	}
	stray, err := c.s.quota.Stray()
	if err != nil {
		c.add(c.s.layout.snapshots, "", 0, fmt.Sprintf("the filesystem's quota can't be read: %v", err))
	}
	for _, id := range stray {
		item := c.add(c.s.layout.snapshots, "", 0, fmt.Sprintf("the project %d has a limit and no files", id))
		if !c.o.Repair {
			continue
		}
		cleared, err := c.s.clearStray(id)
		if err != nil {
			c.report.Items[item].Problem += fmt.Sprintf("; it stays: %v", err)
		}
		c.report.Items[item].Repaired = cleared
	}
	return nil
}
