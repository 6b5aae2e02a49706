package runtime

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/11f9778f/berth/internal/failpoint"
	"github.com/11f9778f/berth/internal/trace"
)

// effect is one thing that is done to the outside on behalf of an object.
type effect struct {
	kind   effectKind
	object string            // sandbox or container ID
	args   map[string]string // what undoing needs to know, beside the object
	do     func(ctx context.Context) error
}

// entry is an effect that may exist: it was intended, and not yet undone.
type entry struct {
	Kind   effectKind        `json:"kind"`
	Object string            `json:"object"`
	Args   map[string]string `json:"args,omitempty"`
	done   bool
}

// line is one record of the journal.
type line struct {
	Op string `json:"op"` // intent, done, undone
	entry
}

// compactAt is the size in bytes from which a journal is rewritten without what is over.
const compactAt = 64 << 10

// ledger is what one sandbox and its containers own outside, in memory and in a journal file.
//
// The journal lies on a tmpfs and is not synced: it must survive this process, not the machine.
// Its lock covers the writes to it, so that a record is whole and in order; nothing else happens
// under it.
type ledger struct {
	path string
	undo func(ctx context.Context, l *ledger, e entry) error

	mu      sync.Mutex
	file    *os.File
	size    int64
	entries []*entry // in order of intent
}

// openLedger reads the journal at path, or begins one. A last line cut short by a crash is dropped:
// an effect begins only when its intent is written whole.
func openLedger(path string, undo func(context.Context, *ledger, entry) error) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	l := &ledger{path: path, undo: undo, file: f}
	if err := l.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	return l, nil
}

func (l *ledger) load() error {
	r := bufio.NewReader(l.file)
	for {
		b, err := r.ReadBytes('\n')
		if err != nil { // EOF, or a torn line before it
			if len(b) > 0 {
				return l.file.Truncate(l.size)
			}
			return nil
		}
		l.size += int64(len(b))
		var n line
		if err := json.Unmarshal(bytes.TrimSpace(b), &n); err != nil {
			return fmt.Errorf("record at byte %d: %w", l.size-int64(len(b)), err)
		}
		l.apply(n)
	}
}

// apply plays one record. It needs mu, or a ledger that nobody else knows.
func (l *ledger) apply(n line) {
	switch n.Op {
	case "intent":
		if l.find(n.Kind, n.Object) == nil {
			e := n.entry
			l.entries = append(l.entries, &e)
		}
	case "done":
		if e := l.find(n.Kind, n.Object); e != nil {
			e.done = true
		}
	case "undone":
		for i, e := range l.entries {
			if e.Kind == n.Kind && e.Object == n.Object {
				l.entries = append(l.entries[:i], l.entries[i+1:]...)
				break
			}
		}
	}
}

func (l *ledger) find(kind effectKind, object string) *entry {
	for _, e := range l.entries {
		if e.Kind == kind && e.Object == object {
			return e
		}
	}
	return nil
}

// record plays a record and writes it down.
func (l *ledger) record(op string, e entry) error {
	n := line{Op: op, entry: e}
	if op != "intent" {
		n.Args = nil
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return fmt.Errorf("journal %s is closed", l.path)
	}
	if _, err := l.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write journal %s: %w", l.path, err)
	}
	l.size += int64(len(b)) + 1
	l.apply(n)
	if l.size > compactAt {
		return l.compact()
	}
	return nil
}

// compact rewrites the journal with the live entries alone. It needs mu.
func (l *ledger) compact() error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	for _, e := range l.entries {
		enc.Encode(line{Op: "intent", entry: *e})
		if e.done {
			enc.Encode(line{Op: "done", entry: entry{Kind: e.Kind, Object: e.Object}})
		}
	}
	tmp := l.path + ".new"
	if err := os.WriteFile(tmp, buf.Bytes(), 0o600); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	if err := os.Rename(tmp, l.path); err != nil {
		f.Close()
		return fmt.Errorf("compact journal: %w", err)
	}
	l.file.Close()
	l.file, l.size = f, int64(buf.Len())
	return nil
}

// do is the one way to the outside: intent, effect, done. If the effect fails, its intent stays: it
// may have happened in part, and undoObject takes it back.
func (l *ledger) do(ctx context.Context, e effect) error {
	defer trace.Start(ctx, string(e.kind))()
	n := entry{Kind: e.kind, Object: e.object, Args: e.args}
	if err := l.record("intent", n); err != nil {
		return err
	}
	if err := failpoint.Here("runtime/" + string(e.kind) + "/before"); err != nil {
		return err
	}
	if err := e.do(ctx); err != nil {
		return err
	}
	if err := failpoint.Here("runtime/" + string(e.kind) + "/after"); err != nil {
		return err
	}
	return l.record("done", n)
}

// step is do for an effect that leaves nothing to undo, such as a signal or a record of the store: it
// has its place for failpoints and its span, and no entry.
func (l *ledger) step(ctx context.Context, e effect) error {
	defer trace.Start(ctx, string(e.kind))()
	if err := failpoint.Here("runtime/" + string(e.kind) + "/before"); err != nil {
		return err
	}
	if err := e.do(ctx); err != nil {
		return err
	}
	return failpoint.Here("runtime/" + string(e.kind) + "/after")
}

// undoOne takes one effect back, if it may exist.
func (l *ledger) undoOne(ctx context.Context, kind effectKind, object string) error {
	l.mu.Lock()
	e := l.find(kind, object)
	l.mu.Unlock()
	if e == nil {
		return nil
	}
	defer trace.Start(ctx, "undo-"+string(kind))()
	if err := failpoint.Here("runtime/undo-" + string(kind) + "/before"); err != nil {
		return err
	}
	if err := l.undo(ctx, l, *e); err != nil {
		return fmt.Errorf("undo %s of %s: %w", kind, short(object), err)
	}
	if err := failpoint.Here("runtime/undo-" + string(kind) + "/after"); err != nil {
		return err
	}
	return l.record("undone", *e)
}

// undoObject takes everything of an object back, the last first, and goes on when a step fails.
func (l *ledger) undoObject(ctx context.Context, object string) error {
	var errs []error
	live := l.live(object)
	for i := len(live) - 1; i >= 0; i-- {
		errs = append(errs, l.undoOne(ctx, live[i].Kind, live[i].Object))
	}
	return errors.Join(errs...)
}

// live returns copies of what an object may own outside; "" means every object of the sandbox.
func (l *ledger) live(object string) []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []entry
	for _, e := range l.entries {
		if object == "" || e.Object == object {
			out = append(out, *e)
		}
	}
	return out
}

// has tells whether one of the kinds may exist for any object of the sandbox.
func (l *ledger) has(kinds ...effectKind) bool {
	for _, e := range l.live("") {
		for _, k := range kinds {
			if e.Kind == k {
				return true
			}
		}
	}
	return false
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// remove ends an empty ledger.
func (l *ledger) remove() error {
	l.mu.Lock()
	n := len(l.entries)
	l.mu.Unlock()
	if n > 0 {
		return fmt.Errorf("journal %s still owns %d things", l.path, n)
	}
	if err := l.close(); err != nil {
		return err
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// short abbreviates an ID for messages.
func short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// owns tells whether the effect may exist.
func (l *ledger) owns(kind effectKind, object string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.find(kind, object) != nil
}
