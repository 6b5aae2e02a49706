package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/network/netns"
	"github.com/11f9778f/berth/internal/sys"
)

// ledger keeps the records, a folder for each sandbox:
//
//	ID/attachment.json   the record
//	ID/results/          what libcni keeps of ADD, for CHECK and DEL
//	ID/lock              held by plugins that run
type ledger string

func (l ledger) folder(id string) string { return filepath.Join(string(l), id) }
func (l ledger) record(id string) string { return filepath.Join(string(l), id, "attachment.json") }

// maxRecord bounds a record: a configuration file's size, several times over.
const maxRecord = 4*maxConf + 1<<20

// read returns fs.ErrNotExist where there is no record.
func (l ledger) read(id string) (*attachment, error) {
	b, err := readFile(l.record(id), maxRecord)
	if err != nil {
		return nil, err
	}
	a, err := parseAttachment(b)
	if err == nil && a.ID != id {
		err = fmt.Errorf("id is %q", a.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", l.record(id), err)
	}
	return a, nil
}

// write puts a record on disk for good: data, name, folder.
func (l ledger) write(a *attachment) error {
	if err := failpoint.Here("network/cni/record/before"); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.Mkdir(l.folder(a.ID), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	path := l.record(a.ID)
	if err := writeSynced(path+".new", b); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	for _, dir := range []string{l.folder(a.ID), string(l)} {
		if err := syncFolder(dir); err != nil {
			return fmt.Errorf("write record: %w", err)
		}
	}
	return failpoint.Here("network/cni/record/after")
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// drop forgets a sandbox, its record first.
func (l ledger) drop(id string) error {
	if err := failpoint.Here("network/cni/drop/before"); err != nil {
		return err
	}
	if err := os.Remove(l.record(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := failpoint.Here("network/cni/drop/after"); err != nil {
		return err
	}
	return os.RemoveAll(l.folder(id))
}

// list returns the good records, and the ids whose records are damaged. Folders without a record are removed:
// they are left of one that was never begun, or is over. That is safe for who holds no id's lock, because the
// record comes with the folder's first file and goes with its last.
func (l ledger) list() (good []*attachment, damaged []string, err error) {
	names, err := os.ReadDir(string(l))
	if err != nil {
		return nil, nil, err
	}
	for _, n := range names {
		if !n.IsDir() || netns.CheckID(n.Name()) != nil {
			continue
		}
		a, err := l.read(n.Name())
		switch {
		case err == nil:
			good = append(good, a)
		case !errors.Is(err, fs.ErrNotExist):
			damaged = append(damaged, n.Name())
		}
	}
	return good, damaged, nil
}

// hold takes a sandbox's lock for one operation. The lock is a file's that plugins inherit, and what they start
// does so too: where the daemon dies in the middle of one, its successor waits for the plugin here. It gives
// up waiting after the longest time that a plugin may take.
func (l ledger) hold(ctx context.Context, id string, longest time.Duration, log *slog.Logger) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	path := filepath.Join(l.folder(id), "lock")
	for {
		f, err := sys.LockFile(path)
		if !errors.Is(err, sys.ErrLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				log.Warn("a CNI plugin of an earlier daemon, or what it started, still runs: it is waited for no longer", "sandbox", id)
				return nil, nil
			}
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}
