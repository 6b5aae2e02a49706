package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// subnetsFile remembers what SetSubnets was told, for the next Manager of this run directory.
func (c Config) subnetsFile() string { return filepath.Join(c.RunDir, "network", "subnets.json") }

// SetSubnets changes where new pods get their addresses from, now and for the Managers to come with this
// run directory. Pods that have an address keep it, and bridge and table serve both.
func (m *Manager) SetSubnets(ctx context.Context, subnets []netip.Prefix) error {
	if len(subnets) == 0 {
		return errors.New("set pod subnets: none is given")
	}
	if err := CheckSubnets(subnets); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	if slices.Equal(subnets, m.book.Configured()) {
		return nil
	}
	if err := Remember(m.cfg.subnetsFile(), subnets); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	if err := m.book.SetSubnets(subnets); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	m.forget()
	m.log.Info("new pods get addresses of", "subnets", subnets)
	if len(m.book.Entries()) == 0 {
		return nil // the next pod makes what it needs
	}
	if _, err := m.ensure(ctx); err != nil {
		return fmt.Errorf("set pod subnets: %w", err)
	}
	return nil
}

// Remember writes subnets down for Remembered, in one step.
func Remember(path string, subnets []netip.Prefix) error {
	b, err := json.Marshal(subnets)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Remembered reads what Remember has written; nil if it never was.
func Remembered(path string) ([]netip.Prefix, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return out, CheckSubnets(out)
}
