package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"syscall"
)

// ErrArchive is wrapped by errors about archives that are broken, hostile or too large.
var ErrArchive = errors.New("no checkpoint that could be restored")

// Limits bound what is read of an archive. Zero fields are set to defaults.
type Limits struct {
	Entries int   // files, 65536
	Bytes   int64 // all of them together, 256 GiB
	Meta    int64 // each of config.dump and spec.dump, 16 MiB
}

func (l Limits) withDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 1 << 16
	}
	if l.Bytes == 0 {
		l.Bytes = 256 << 30
	}
	if l.Meta == 0 {
		l.Meta = 16 << 20
	}
	return l
}

// imageName is what CRIU, and who runs it, calls a file among its images.
var imageName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// Unpacked is an archive in a folder.
type Unpacked struct {
	Config Config
	// Spec is the OCI spec of the container that was checkpointed. It is data to compare with, never to make a
	// container from.
	Spec []byte
	// Images is the folder with CRIU's images, Diff the writable layer, "" where there is none.
	Images, Diff string
}

// Open opens an archive, or a folder that holds what would be in one. It does not wait for anybody: a FIFO is refused.
func Open(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open checkpoint: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() && !st.IsDir() {
		err = fmt.Errorf("%s is no file: %w", name, ErrArchive)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Unpack reads an archive, or the folder with the content of one (the layer of an image), into the empty folder dir.
// It takes both for hostile: of what they hold only plain files with the names that are expected become files, the
// rest is left out, and links are errors.
func Unpack(ctx context.Context, from *os.File, dir string, limits Limits) (*Unpacked, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacker{ctx: ctx, root: root, limits: limits.withDefaults(), seen: map[string]bool{}}
	if err := root.Mkdir(ImagesFolder, 0o700); err != nil {
		return nil, err
	}
	st, err := from.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		err = u.folder(from.Name())
	} else {
		err = u.archive(from)
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", from.Name(), err)
	}
	out, err := u.result(dir)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint %s: %w", from.Name(), err)
	}
	return out, nil
}

type unpacker struct {
	ctx     context.Context
	root    *os.Root
	limits  Limits
	entries int
	bytes   int64
	seen    map[string]bool
}

// wanted tells what to do with an entry: it is a file to keep, one to leave out, or an error.
func wanted(name string) (keep bool, err error) {
	switch name {
	case ConfigFile, SpecFile, DiffFile:
		return true, nil
	}
	folder, base := path.Split(name)
	if folder != ImagesFolder+"/" {
		return false, nil
	}
	if !imageName.MatchString(base) {
		return false, fmt.Errorf("%.200q is no name of an image: %w", name, ErrArchive)
	}
	return true, nil
}

func (u *unpacker) archive(r io.Reader) error {
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrArchive)
		}
		if u.entries++; u.entries > u.limits.Entries {
			return fmt.Errorf("it has more than %d entries: %w", u.limits.Entries, ErrArchive)
		}
		name := path.Clean(hdr.Name)
		if hdr.Typeflag == tar.TypeDir {
			continue
		}
		keep, err := wanted(name)
		if err != nil {
			return err
		}
		if !keep {
			continue
		}
		if hdr.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s is no plain file: %w", name, ErrArchive)
		}
		if err := u.put(name, hdr.Size, tr); err != nil {
			return err
		}
	}
}

// folder reads what would be in an archive from a folder.
func (u *unpacker) folder(dir string) error {
	from, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer from.Close()
	names := []string{ConfigFile, SpecFile, DiffFile}
	images, err := from.OpenFile(ImagesFolder, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrArchive)
	}
	entries, err := images.ReadDir(u.limits.Entries)
	images.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for _, e := range entries {
		names = append(names, path.Join(ImagesFolder, e.Name()))
	}
	for _, name := range names {
		if _, err := wanted(name); err != nil {
			return err
		}
		if err := u.copy(from, name); err != nil && !(name == DiffFile && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func (u *unpacker) copy(from *os.Root, name string) error {
	f, err := from.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no plain file: %w", name, ErrArchive)
	}
	return u.put(name, st.Size(), f)
}

// put writes a file.
func (u *unpacker) put(name string, size int64, r io.Reader) error {
	switch {
	case u.seen[name]:
		return fmt.Errorf("%s comes twice: %w", name, ErrArchive)
	case size < 0 || size > u.limits.Bytes-u.bytes:
		return fmt.Errorf("it holds more than %d bytes: %w", u.limits.Bytes, ErrArchive)
	case (name == ConfigFile || name == SpecFile) && size > u.limits.Meta:
		return fmt.Errorf("%s has more than %d bytes: %w", name, u.limits.Meta, ErrArchive)
	}
	u.seen[name] = true
	u.bytes += size
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, reader{u.ctx, r}, size)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%s is cut off: %w", name, ErrArchive)
	}
	return errors.Join(err, f.Close())
}

func (u *unpacker) result(dir string) (*Unpacked, error) {
	out := &Unpacked{Images: path.Join(dir, ImagesFolder)}
	for _, name := range []string{ConfigFile, SpecFile} {
		if !u.seen[name] {
			return nil, fmt.Errorf("%s is missing: %w", name, ErrArchive)
		}
	}
	if u.seen[DiffFile] {
		out.Diff = path.Join(dir, DiffFile)
	}
	config, err := u.root.ReadFile(ConfigFile)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &out.Config); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ConfigFile, err, ErrArchive)
	}
	out.Spec, err = u.root.ReadFile(SpecFile)
	return out, err
}
