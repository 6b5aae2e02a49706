package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/11f9778f/berth/internal/sys"
)

// FsckOptions are the choices of a check.
type FsckOptions struct {
	// Verify reads every blob and compares its digest, and counts every layer's inodes; else only sizes
	// are looked at.
	Verify bool
	// Repair throws away what is damaged or nobody's. An image that loses a blob by that is dropped; a
	// layer is unpacked again from its blob when it is needed.
	Repair bool
}

// FsckItem is one file or folder of the store.
type FsckItem struct {
	Path  string // below the root, "images/blobs/sha256/…"
	Owner string // "image docker.io/library/busybox:latest", "snapshot …", "store"; "" is nobody
	Bytes int64
	// Problem is what is wrong with it, or "".
	Problem  string
	Repaired bool
}

// FsckReport is the result of a check.
type FsckReport struct{ Items []FsckItem }

// Problems are the items with a problem.
func (r *FsckReport) Problems() []FsckItem {
	return slices.DeleteFunc(slices.Clone(r.Items), func(i FsckItem) bool { return i.Problem == "" })
}

// Fsck compares what is on the disk with what the store knows. It may run beside everything else: what
// comes and goes meanwhile is not reported.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) (*FsckReport, error) {
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	defer s.gate.calls.Done()
	c := &check{s: s, o: o, owners: s.owners(), report: &FsckReport{}}
	for _, step := range []func(context.Context) error{c.fixed, c.blobs, c.layers, c.snapshots, c.projects} {
		if err := step(ctx); err != nil {
			return c.report, fmt.Errorf("check the image store: %w", err)
		}
	}
	if o.Repair {
		if err := c.repair(); err != nil {
			return c.report, fmt.Errorf("repair the image store: %w", s.remedy(err))
		}
	}
	return c.report, nil
}

type check struct {
	s      *Store
	o      FsckOptions
	owners map[digest.Digest]string
	report *FsckReport
	bad    []badItem
}

// badItem is what repair works on.
type badItem struct {
	item  int // index in the report
	path  string
	trash string
	d     digest.Digest // of a blob or layer, or ""
	blob  bool
}

// unknown is the problem of what no part of the store has.
const unknown = "nobody knows it"

// owners says who wants each blob and layer.
func (s *Store) owners() map[digest.Digest]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := map[digest.Digest]string{}
	for key, sn := range s.snaps {
		for _, d := range sn.layers {
			o[d] = "snapshot " + key
		}
	}
	for d := range s.leases {
		o[d] = "a running pull"
	}
	for d := range s.keep {
		o[d] = "a pull that may be repeated"
	}
	for namespace, t := range s.tenants {
		names := t.shownNames()
		for d, m := range t.manifests {
			owner := "image " + cmp.Or(names[d], m.config.Digest.String())
			if namespace != DefaultNamespace {
				owner += " of the namespace " + namespace
			}
			o[d], o[m.config.Digest] = owner, owner
			for _, l := range m.layers {
				o[l.Blob.Digest], o[l.DiffID] = owner, owner
			}
		}
	}
	return o
}

// shownNames is one name for each manifest that has any, a tag where there is one.
func (t tenant) shownNames() map[digest.Digest]string {
	names := map[digest.Digest]string{}
	for name, d := range t.names {
		if old, ok := names[d]; !ok || strings.Contains(old, "@") && !strings.Contains(name, "@") {
			names[d] = name
		}
	}
	return names
}

func (c *check) add(path, owner string, bytes int64, problem string) int {
	rel, err := filepath.Rel(c.s.root, path)
	if err != nil {
		rel = path
	}
	c.report.Items = append(c.report.Items, FsckItem{Path: rel, Owner: owner, Bytes: bytes, Problem: problem})
	return len(c.report.Items) - 1
}

func (c *check) addBad(path, trash, owner string, bytes int64, problem string, d digest.Digest, blob bool) {
	c.bad = append(c.bad, badItem{c.add(path, owner, bytes, problem), path, trash, d, blob})
}

// fixed looks for what does not belong beside the store's own files.
func (c *check) fixed(context.Context) error {
	s := c.s
	own := []string{s.index(), filepath.Join(s.images, "oci-layout"), filepath.Dir(s.layout.blobs()), s.layers(), s.signatures(), s.ingest, s.trash, s.base()}
	entries, err := os.ReadDir(s.images)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.images, e.Name())
		if slices.Contains(own, path) {
			if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() {
				c.add(path, "store", fi.Size(), "")
			}
			continue
		}
		c.addBad(path, s.trash, "", 0, unknown, "", false)
	}
	signed, err := os.ReadDir(s.signatures())
	if err != nil {
		return err
	}
	for _, e := range signed {
		d, _ := parseHex(e.Name())
		if fi, err := e.Info(); err == nil {
			c.add(s.signature(d), c.owners[d], fi.Size(), "")
		}
	}
	for _, dir := range []string{s.ingest, s.trash, s.snapTrash} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			c.add(filepath.Join(dir, e.Name()), "store, being made or deleted", 0, "")
		}
	}
	return nil
}

func (c *check) blobs(ctx context.Context) error {
	s := c.s
	s.mu.Lock()
	known := make(map[digest.Digest]int64, len(s.blobs))
	for d, size := range s.blobs {
		known[d] = size
	}
	s.mu.Unlock()
	entries, err := os.ReadDir(s.layout.blobs())
	if err != nil {
		return err
	}
	seen := map[digest.Digest]bool{}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, ok := parseHex(e.Name())
		path := filepath.Join(s.layout.blobs(), e.Name())
		fi, err := os.Lstat(path)
		if isNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		seen[d] = true
		size, here := known[d]
		switch {
		case !ok || !here && !s.knows(d, true):
			c.addBad(path, s.trash, "", fi.Size(), unknown, d, true)
		case here && fi.Size() != size:
			c.addBad(path, s.trash, c.owners[d], fi.Size(), fmt.Sprintf("it should have %d bytes", size), d, true)
		case c.o.Verify && !s.verify(ctx, path, d):
			c.addBad(path, s.trash, c.owners[d], fi.Size(), "its bytes do not have its digest", d, true)
		default:
			c.add(path, c.owners[d], fi.Size(), "")
		}
	}
	for d := range known {
		if !seen[d] && s.knows(d, true) {
			c.addBad(s.blob(d), s.trash, c.owners[d], 0, "it is missing", d, true)
		}
	}
	return nil
}

// knows asks again whether the store has a blob or layer: things come and go during a check.
func (s *Store) knows(d digest.Digest, blob bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if blob {
		_, ok := s.blobs[d]
		return ok
	}
	_, ok := s.layerRecs[d]
	return ok
}

// verify compares a blob's bytes with its digest. What disappears meanwhile is no damage.
func (s *Store) verify(ctx context.Context, path string, d digest.Digest) bool {
	f, err := os.Open(path)
	if err != nil {
		return isNotExist(err)
	}
	defer f.Close()
	h := d.Algorithm().Hash()
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err != nil {
			break
		}
	}
	return ctx.Err() != nil || digest.NewDigest(d.Algorithm(), h) == d
}

func (c *check) layers(ctx context.Context) error {
	s := c.s
	s.mu.Lock()
	known := make(map[digest.Digest]Usage, len(s.layerRecs))
	for d, l := range s.layerRecs {
		known[d] = l.usage
	}
	s.mu.Unlock()
	entries, err := os.ReadDir(s.layers())
	if err != nil {
		return err
	}
	seen := map[digest.Digest]bool{}
	for _, e := range entries {
		d, ok := parseHex(e.Name())
		path := filepath.Join(s.layers(), e.Name())
		seen[d] = true
		usage, here := known[d]
		if !ok || !here && !s.knows(d, false) {
			if exists(path) {
				c.addBad(path, s.trash, "", 0, unknown, d, false)
			}
			continue
		}
		problem, err := c.layerProblem(ctx, path)
		if err != nil {
			return err
		}
		if problem != "" && s.knows(d, false) {
			c.addBad(path, s.trash, c.owners[d], usage.Bytes, problem, d, false)
		} else {
			c.add(path, c.owners[d], usage.Bytes, "")
		}
	}
	for d, u := range known {
		if !seen[d] && s.knows(d, false) {
			c.addBad(s.layer(d), s.trash, c.owners[d], u.Bytes, "it is missing", d, false)
		}
	}
	return nil
}

// layerProblem says what is wrong with an unpacked layer.
func (c *check) layerProblem(ctx context.Context, path string) (string, error) {
	var f layerFile
	if err := readJSON(filepath.Join(path, layerFileName), &f); err != nil {
		return "its record can't be read", nil
	}
	dir, err := sys.OpenFolder(filepath.Join(path, "fs"))
	if err != nil {
		return "its files are missing", nil
	}
	defer dir.Close()
	if !c.o.Verify {
		return "", nil
	}
	_, inodes, err := dir.DiskUsage(ctx)
	if err != nil {
		return "", err
	}
	if inodes != f.Inodes {
		return fmt.Sprintf("it has %d inodes, it should have %d", inodes, f.Inodes), nil
	}
	return "", nil
}

// repair throws the bad things away and drops the images that can't be made whole without them.
func (c *check) repair() error {
	s := c.s
	var lost []digest.Digest
	for _, b := range c.bad {
		s.disk.Lock()
		if item := &c.report.Items[b.item]; item.Problem == unknown && s.knows(b.d, b.blob) {
			s.disk.Unlock()
			item.Problem = "" // a pull was about to tell
			continue
		}
		err := s.discard(b.path, b.trash)
		s.mu.Lock()
		if b.blob {
			delete(s.blobs, b.d)
			lost = append(lost, b.d)
		} else if b.d != "" {
			delete(s.layerRecs, b.d)
		}
		s.mu.Unlock()
		s.disk.Unlock()
		if err != nil {
			return err
		}
		c.report.Items[b.item].Repaired = true
	}
	wake(s.sweep)
	return s.dropWithout(lost)
}

// dropWithout drops the images that need one of the blobs, in all namespaces.
func (s *Store) dropWithout(lost []digest.Digest) error {
	var errs []error
	for _, namespace := range s.Namespaces() {
		in := Store{core: s.core, namespace: namespace}
		errs = append(errs, in.dropOwnWithout(lost))
	}
	return errors.Join(errs...)
}

func (s *Store) dropOwnWithout(lost []digest.Digest) error {
	var ch change
	s.mu.Lock()
	for d, m := range s.own().manifests {
		need := []digest.Digest{d, m.config.Digest}
		for _, l := range m.layers {
			need = append(need, l.Blob.Digest)
		}
		if slices.ContainsFunc(need, func(d digest.Digest) bool { return slices.Contains(lost, d) }) {
			ch.remove = append(ch.remove, d)
		}
	}
	s.mu.Unlock()
	if len(ch.remove) == 0 {
		return nil
	}
	return s.commit(ch)
}
