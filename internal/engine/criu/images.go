package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Limits of CRIU's images that are read here; those with memory and files are CRIU's own to read.
const (
	maxImage   = 16 << 20 // bytes of one image
	maxImages  = 1 << 16  // files in the folder
	maxRecords = 1 << 16  // in one image
)

// errImage says that an image is not what CRIU writes.
var errImage = errors.New("it is no image of CRIU's")

// Magic numbers that begin an image and are followed by one of its own (criu/include/magic.h).
const (
	magicCommon  = 0x54564319
	magicService = 0x55105940
)

// records splits an image into its messages (criu.org/Images: magic, then size and protocol buffer, again and again).
func records(b []byte) ([][]byte, error) {
	if len(b) < 4 {
		return nil, errImage
	}
	head := 4
	if m := binary.LittleEndian.Uint32(b); m == magicCommon || m == magicService {
		head = 8
	}
	if len(b) < head {
		return nil, errImage
	}
	var out [][]byte
	for b = b[head:]; len(b) > 0; {
		if len(b) < 4 || len(out) >= maxRecords {
			return nil, errImage
		}
		n := uint64(binary.LittleEndian.Uint32(b))
		if n > uint64(len(b)-4) {
			return nil, errImage
		}
		out, b = append(out, b[4:4+n]), b[4+n:]
	}
	return out, nil
}

// field is one of a protocol buffer's message: a number, or bytes.
type field struct {
	id     uint64
	number uint64
	bytes  []byte
}

// fields reads a message (protobuf.dev/programming-guides/encoding); groups, which nobody uses, are refused.
func fields(b []byte) ([]field, error) {
	var out []field
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 || key>>3 == 0 {
			return nil, errImage
		}
		b = b[n:]
		f := field{id: key >> 3}
		switch key & 7 {
		case 0:
			if f.number, n = binary.Uvarint(b); n <= 0 {
				return nil, errImage
			}
		case 1:
			n = 8
		case 5:
			n = 4
		case 2:
			size, m := binary.Uvarint(b)
			if m <= 0 || size > uint64(len(b)-m) {
				return nil, errImage
			}
			n = m + int(size)
			f.bytes = b[m:n]
		default:
			return nil, errImage
		}
		if n > len(b) {
			return nil, errImage
		}
		b = b[n:]
		out = append(out, f)
	}
	return out, nil
}

// message is the fields of a message by their number.
type message map[uint64][]field

func parse(b []byte) (message, error) {
	list, err := fields(b)
	if err != nil {
		return nil, err
	}
	m := message{}
	for _, f := range list {
		m[f.id] = append(m[f.id], f)
	}
	return m, nil
}

// number is the field's last value, as a reader of protocol buffers takes it; 0 where there is none.
func (m message) number(id uint64) uint64 {
	if list := m[id]; len(list) > 0 {
		return list[len(list)-1].number
	}
	return 0
}

func (m message) text(id uint64) string {
	if list := m[id]; len(list) > 0 {
		return string(list[len(list)-1].bytes)
	}
	return ""
}

// sub is a message in a message. Several of one number are merged by a reader, and so refused here.
func (m message) sub(id uint64) (message, error) {
	if len(m[id]) != 1 {
		return nil, errImage
	}
	return parse(m[id][0].bytes)
}

// numbers is a repeated field, packed or not.
func (m message) numbers(id uint64) ([]uint64, error) {
	var out []uint64
	for _, f := range m[id] {
		if f.bytes == nil {
			out = append(out, f.number)
			continue
		}
		for b := f.bytes; len(b) > 0; {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return nil, errImage
			}
			out, b = append(out, v), b[n:]
		}
	}
	return out, nil
}

// mask is a set of capabilities, two words of 32 bits.
func (m message) mask(id uint64) (uint64, error) {
	words, err := m.numbers(id)
	if err != nil {
		return 0, err
	}
	var mask uint64
	for i, w := range words {
		if i > 1 && w != 0 {
			return 0, errImage
		}
		if i < 2 {
			mask |= (w & (1<<32 - 1)) << (32 * i)
		}
	}
	return mask, nil
}

// imageFolder is a folder of CRIU's images that is not trusted.
type imageFolder struct {
	root  *os.Root
	names []string
}

// openImages opens a folder of images. What is no plain file is refused: CRIU would follow a link.
func openImages(dir string) (*imageFolder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open CRIU's images: %w", err)
	}
	f, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(maxImages)
	if err != nil && !errors.Is(err, io.EOF) {
		root.Close()
		return nil, fmt.Errorf("read CRIU's images: %w", err)
	}
	out := &imageFolder{root: root}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			root.Close()
			return nil, fmt.Errorf("CRIU's images: %q is no plain file: %w", e.Name(), errImage)
		}
		out.names = append(out.names, e.Name())
	}
	slices.Sort(out.names)
	return out, nil
}

func (d *imageFolder) close() { d.root.Close() }

// like lists the images with a kind's name: core-1.img, core-2.img, ….
func (d *imageFolder) like(kind string) []string {
	var out []string
	for _, name := range d.names {
		if ok, err := filepath.Match(kind+"-*.img", name); err == nil && ok {
			out = append(out, name)
		}
	}
	return out
}

func (d *imageFolder) read(name string) ([]byte, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxImage+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxImage {
		return nil, fmt.Errorf("%s is larger than %d bytes: %w", name, maxImage, errImage)
	}
	return b, nil
}

// messages reads an image.
func (d *imageFolder) messages(name string) ([]message, error) {
	b, err := d.read(name)
	if err != nil {
		return nil, err
	}
	list, err := records(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var out []message
	for _, r := range list {
		m, err := parse(r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, m)
	}
	return out, nil
}

// single reads an image of one message.
func (d *imageFolder) single(name string) (message, error) {
	list, err := d.messages(name)
	if err == nil && len(list) != 1 {
		err = fmt.Errorf("%s has %d messages: %w", name, len(list), errImage)
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// quoteAll lists names for an error.
func quoteAll(names []string) string {
	if len(names) > 5 {
		names = append(slices.Clone(names[:5]), "…")
	}
	return strings.Join(names, ", ")
}
