// Package failpoint lets a test kill this very process at a named place, to show that what the place
// leaves half-done is finished or undone by the next start.
//
// A place is a call of Here with a constant name. It does nothing unless the environment variable
// BERTH_FAILPOINT names it:
//
//	BERTH_FAILPOINT=runtime/netns/before=kill     kill -9 of this process at that place
//	BERTH_FAILPOINT=runtime/netns/before=kill@3   at the third time it is reached
//	BERTH_FAILPOINT=image/rename=error            Here returns an error
//	BERTH_FAILPOINT=image/rename=error@0          each time it is reached
//	BERTH_FAILPOINT=trace:/path                   every name reached is appended to the file, once
package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

type plan struct {
	name, action string
	at           int64
	hits         atomic.Int64
	mu           sync.Mutex
	seen         map[string]bool
	trace        string
}

// armed is read once: a process has the failpoint that it was started with.
var armed = sync.OnceValue(func() *plan { return parse(os.Getenv("BERTH_FAILPOINT")) })

func parse(s string) *plan {
	if s == "" {
		return nil
	}
	if file, ok := strings.CutPrefix(s, "trace:"); ok {
		return &plan{trace: file, seen: map[string]bool{}}
	}
	name, action, ok := strings.Cut(s, "=")
	if !ok {
		return nil
	}
	p := &plan{name: name, action: action, at: 1}
	if action, n, ok := strings.Cut(action, "@"); ok {
		p.action = action
		if at, err := strconv.ParseInt(n, 10, 64); err == nil {
			p.at = at
		}
	}
	return p
}

// Here is a place called name. It returns an error only where the plan asks for one.
func Here(name string) error {
	p := armed()
	if p == nil {
		return nil
	}
	if p.trace != "" {
		p.record(name)
		return nil
	}
	if p.name != name || p.at != 0 && p.hits.Add(1) != p.at {
		return nil
	}
	if p.action == "kill" {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
	return fmt.Errorf("failpoint %s", name)
}

func (p *plan) record(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[name] {
		return
	}
	p.seen[name] = true
	f, err := os.OpenFile(p.trace, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, name)
}
