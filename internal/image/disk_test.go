package image

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A recorded run of a process: what it did to the files below a folder, system call by system call, as strace saw it.
// disk plays it again and knows at each step what a power cut may leave.

// node is a file, folder, link or device.
//
// Invariant: stable and kept are what is on the platter for certain, contents and entries what the kernel shows.
type node struct {
	kind     byte // 'f', 'd', 'l', 'c'
	target   string
	contents []byte
	stable   []byte // as of the last fsync
	entries  map[string]*node
	kept     map[string]*node // as of the last fsync of the folder
}

func newFolder() *node {
	return &node{kind: 'd', entries: map[string]*node{}, kept: map[string]*node{}}
}

// sync makes all below n stable.
func (n *node) sync(deep bool) {
	n.stable, n.kept = slices.Clone(n.contents), maps.Clone(n.entries)
	for _, e := range n.entries {
		if deep {
			e.sync(true)
		}
	}
}

// disk is the tree below root.
type disk struct {
	t    *testing.T
	root string
	top  *node
	open map[string]int64   // offsets of the descriptors
	at   map[string]pending // calls under way, by thread
	said []string           // what the process has said
	// due is a syncfs whose mark was not set yet. It counts from then on: on a slow disk it might take so long, and
	// all but the one who sets the mark go on.
	due    bool
	parsed int
}

// call is a system call that has returned.
type call struct {
	name string
	args []string
	ret  string
	file *node // of the first argument, where that is a descriptor below root
}

type pending struct {
	text string
	file *node
}

// traced are the calls that change files, and those that must not be missed.
const traced = "openat,openat2,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,symlinkat,mknod,mknodat," +
	"write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,fsync,fdatasync,syncfs,sync,copy_file_range,sendfile,splice,lseek"

// record runs this test binary as a child with env under strace, and returns the log.
func record(t *testing.T, test string, env ...string) string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed; make strace does that")
	}
	log := filepath.Join(t.TempDir(), "strace.log")
	cmd := exec.Command(strace, "-f", "-y", "-xx", "-s", "100000000", "-e", "trace="+traced, "-e", "signal=none", "-o", log,
		os.Args[0], "-test.run=^"+test+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("PTRACE_TRACEME")) || bytes.Contains(out, []byte("Operation not permitted")) {
			t.Skipf("no process may be traced here: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	return log
}

// play calls step after each call of the log that has changed something below root.
func play(t *testing.T, log, root string, step func(*disk)) {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &disk{t: t, root: root, top: newFolder(), open: map[string]int64{}, at: map[string]pending{}}
	for r := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			break
		}
		if d.line(strings.TrimRight(line, "\n")) {
			step(d)
		}
	}
	if d.parsed < 100 {
		t.Fatalf("the log of strace shows %d calls only", d.parsed)
	}
}

var (
	callForm = regexp.MustCompile(`^(\w+)\((.*)\)\s+= (.*)$`)
	fdForm   = regexp.MustCompile(`^(\d+|AT_FDCWD)<([^>]*)>(\(deleted\))?$`)
)

// line takes a line of the log, and tells whether it has changed something.
func (d *disk) line(line string) bool {
	thread, text, ok := strings.Cut(line, " ")
	text = strings.TrimLeft(text, " ")
	if !ok || strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") {
		return false
	}
	if head, ok := strings.CutSuffix(text, " <unfinished ...>"); ok {
		_, args, _ := strings.Cut(head, "(")
		d.at[thread] = pending{head, d.descriptor(first(args))}
		return false
	}
	var file *node
	if rest, ok := strings.CutPrefix(text, "<... "); ok {
		_, tail, _ := strings.Cut(rest, "resumed>")
		text, file = d.at[thread].text+tail, d.at[thread].file
		delete(d.at, thread)
	}
	m := callForm.FindStringSubmatch(text)
	if m == nil {
		if strings.HasSuffix(text, "= ?") {
			return false // the process ended in it
		}
		d.t.Fatalf("strace said %.300q", text)
	}
	c := call{name: m[1], args: split(m[2]), ret: m[3], file: file}
	if strings.HasPrefix(c.ret, "-1") || strings.HasPrefix(c.ret, "?") {
		return false
	}
	if c.file == nil && len(c.args) > 0 {
		c.file = d.descriptor(c.args[0])
	}
	d.parsed++
	return d.apply(c)
}

func first(args string) string {
	list := split(args)
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// split cuts arguments at the commas outside of quotes and braces.
func split(s string) []string {
	var out []string
	quoted, depth, from := false, 0, 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[' || c == '<' || c == '(':
			depth++
		case c == '}' || c == ']' || c == '>' || c == ')':
			depth--
		case c == ',' && depth == 0:
			out = append(out, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	if rest := strings.TrimSpace(s[from:]); rest != "" {
		out = append(out, rest)
	}
	return out
}

// unquote undoes what -xx does.
func unquote(s string) string {
	s = strings.Trim(s, `"`)
	if !strings.Contains(s, `\x`) {
		return s
	}
	out := make([]byte, 0, len(s)/4)
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			if b, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				out = append(out, byte(b))
				i += 3
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// descriptor finds the file of a descriptor below root that has a name still.
func (d *disk) descriptor(arg string) *node {
	m := fdForm.FindStringSubmatch(arg)
	if m == nil || m[1] == "AT_FDCWD" || m[3] != "" {
		return nil
	}
	parent, name := d.find(unquote(m[2]))
	if parent == nil {
		return nil
	}
	if name == "" {
		return parent
	}
	return parent.entries[name]
}

// find returns the folder of a path below root, and the name in it; nil for other paths.
func (d *disk) find(p string) (*node, string) {
	p = path.Clean(p)
	if p == d.root {
		return d.top, ""
	}
	rest, ok := strings.CutPrefix(p, d.root+"/")
	if !ok {
		return nil, ""
	}
	n := d.top
	dir, name := path.Split(rest)
	for _, part := range strings.FieldsFunc(dir, func(r rune) bool { return r == '/' }) {
		if n = n.entries[part]; n == nil {
			return nil, ""
		}
	}
	return n, name
}

// at2 is the path that a folder's descriptor and a name make.
func at2(dir, name string) string {
	name = unquote(name)
	if path.IsAbs(name) {
		return name
	}
	if m := fdForm.FindStringSubmatch(dir); m != nil {
		return path.Join(unquote(m[2]), name)
	}
	return name
}

// apply does what a call did.
func (d *disk) apply(c call) bool {
	switch c.name {
	case "write":
		if c.file == nil {
			d.hear(unquote(c.args[1]))
			return false
		}
		fd := c.args[0]
		fd = fd[:strings.IndexByte(fd, '<')]
		n, _ := strconv.Atoi(c.ret)
		d.write(c.file, d.open[fd], []byte(unquote(c.args[1]))[:n])
		d.open[fd] += int64(n)
	case "pwrite64":
		if c.file == nil {
			return false
		}
		offset, _ := strconv.ParseInt(c.args[3], 10, 64)
		d.write(c.file, offset, []byte(unquote(c.args[1])))
	case "ftruncate":
		if c.file == nil {
			return false
		}
		size, _ := strconv.Atoi(c.args[1])
		c.file.contents = append(c.file.contents[:min(size, len(c.file.contents))], make([]byte, max(0, size-len(c.file.contents)))...)
	case "fsync", "fdatasync":
		if c.file == nil {
			return false
		}
		c.file.sync(false)
	case "syncfs":
		if c.file == nil {
			return false
		}
		d.due = true
		return false
	case "openat", "openat2":
		return d.opened(c)
	case "lseek":
		if c.file != nil && c.file.kind == 'f' {
			d.t.Fatalf("lseek of a file of the store: this test does not follow it")
		}
		return false
	default:
		return d.entry(c)
	}
	return true
}

func (d *disk) hear(s string) {
	for line := range strings.Lines(s) {
		if word, ok := strings.CutPrefix(line, "MARK "); ok {
			d.said = append(d.said, strings.TrimSpace(word))
		}
	}
}

func (d *disk) write(n *node, offset int64, b []byte) {
	n.contents = slices.Clone(n.contents)
	if need := int(offset) + len(b); need > len(n.contents) {
		n.contents = append(n.contents, make([]byte, need-len(n.contents))...)
	}
	copy(n.contents[offset:], b)
}

// opened remembers a descriptor, and what opening it has made.
func (d *disk) opened(c call) bool {
	fd, _, _ := strings.Cut(c.ret, "<")
	d.open[fd] = 0
	parent, name := d.find(at2(c.args[0], c.args[1]))
	if parent == nil || name == "" {
		return false
	}
	flags := c.args[2]
	n := parent.entries[name]
	switch {
	case n == nil && strings.Contains(flags, "O_CREAT"):
		if name == syncedFileName && d.due {
			d.due = false
			d.top.sync(true)
		}
		parent.entries[name] = &node{kind: 'f'}
		return true
	case n != nil && n.kind == 'f' && strings.Contains(flags, "O_TRUNC"):
		n.contents = nil
		return true
	}
	return false
}

// entry changes folders.
func (d *disk) entry(c call) bool {
	name := c.name
	args := c.args
	if base, ok := strings.CutSuffix(strings.TrimSuffix(name, "2"), "at"); ok {
		name = base
	} else { // as if there were a folder before each path
		switch name {
		case "rename", "link":
			args = []string{"AT_FDCWD", args[0], "AT_FDCWD", args[1]}
		case "symlink":
			args = []string{args[0], "AT_FDCWD", args[1]}
		default:
			args = append([]string{"AT_FDCWD"}, args...)
		}
	}
	place := args
	if name == "symlink" {
		place = args[1:]
	}
	if len(place) < 2 {
		return false
	}
	parent, base := d.find(at2(place[0], place[1]))
	switch name {
	case "rename", "link":
		to, toBase := d.find(at2(args[2], args[3]))
		if parent == nil && to == nil {
			return false
		}
		if parent == nil || to == nil || parent.entries[base] == nil || strings.Contains(strings.Join(args[4:], ""), "EXCHANGE") {
			d.t.Fatalf("this test does not follow %s%q", c.name, c.args)
		}
		to.entries[toBase] = parent.entries[base]
		if name == "rename" && !(parent == to && base == toBase) {
			delete(parent.entries, base)
		}
		return true
	}
	if parent == nil || base == "" {
		return false
	}
	switch name {
	case "mkdir":
		parent.entries[base] = newFolder()
	case "unlink", "rmdir":
		delete(parent.entries, base)
	case "symlink":
		parent.entries[base] = &node{kind: 'l', target: unquote(args[0])}
	case "mknod":
		parent.entries[base] = &node{kind: 'c'}
	default:
		d.t.Fatalf("this test does not know the call %s%q", c.name, c.args)
	}
	return true
}

// cut is what a crash leaves of a tree: entries of a folder, bytes of a file.
type cut struct {
	name    string
	entries func(*node) map[string]*node
	bytes   func(*node) []byte
	reboot  bool
}

// cuts: a killed process leaves what the kernel shows. A power cut leaves less: of names those since the last fsync of
// their folder may be lost, or not; of bytes all since the last fsync of the file, or a part of them, while a journal has
// kept the names and the sizes.
var cuts = []cut{
	{"killed", func(n *node) map[string]*node { return n.entries }, func(n *node) []byte { return n.contents }, false},
	{"only what was synced", func(n *node) map[string]*node { return n.kept }, func(n *node) []byte { return n.stable }, true},
	{"names and records, but no other bytes", func(n *node) map[string]*node { return n.entries }, func(n *node) []byte {
		if bytes.HasPrefix(n.contents, []byte("{")) {
			return n.contents
		}
		return n.stable
	}, true},
	{"names with torn bytes", func(n *node) map[string]*node { return n.entries }, func(n *node) []byte {
		if bytes.Equal(n.stable, n.contents) {
			return n.contents
		}
		torn := make([]byte, len(n.contents)) // as long as it should be, the second half never written
		copy(torn, n.contents[:len(torn)/2])
		return torn
	}, true},
}

// sum tells states apart.
func (k cut) sum(n *node) [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%c %q %d:", n.kind, n.target, len(k.bytes(n)))
	h.Write(k.bytes(n))
	entries := k.entries(n)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		s := k.sum(entries[name])
		fmt.Fprintf(h, "%q %x", name, s)
	}
	return [32]byte(h.Sum(nil))
}

// write makes the state at dir.
func (k cut) write(t *testing.T, n *node, dir string, seen map[*node]string) {
	t.Helper()
	var err error
	old, linked := seen[n]
	switch {
	case linked && n.kind != 'd':
		err = os.Link(old, dir)
	case n.kind == 'd':
		err = os.MkdirAll(dir, 0o700)
		for name, e := range k.entries(n) {
			k.write(t, e, filepath.Join(dir, name), seen)
		}
	case n.kind == 'f':
		err = os.WriteFile(dir, k.bytes(n), 0o600)
	case n.kind == 'l':
		err = os.Symlink(n.target, dir)
	default:
		err = syscall.Mknod(dir, syscall.S_IFCHR, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	seen[n] = dir
}
