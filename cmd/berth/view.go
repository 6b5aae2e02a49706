package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/cheggaaa/pb/v3"
)

// view is the terminal, shared by all that have something to say: containers' lines with their
// prefix on standard output; Berth's own notes, and progress where it can be redrawn, on standard
// error.
type view struct {
	mu       sync.Mutex
	out, err io.Writer
	colour   bool // standard output takes colour
	redraw   bool // standard error is a terminal
	width    int  // of the widest prefix
	palette  map[string]string
	bars     map[string]*pb.ProgressBar
	drawn    bool // a line of progress stands at the cursor
}

// colours are told apart on dark and on light ground.
var colours = [...]string{"\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m", "\x1b[96m", "\x1b[93m", "\x1b[92m"}

const (
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
	redraw = "\r\x1b[K"
)

func newView(c *cli, noColour bool) *view {
	quiet := noColour || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb"
	return &view{
		out: c.out, err: c.err,
		colour:  terminal(c.out) && !quiet,
		redraw:  terminal(c.err) && os.Getenv("TERM") != "dumb",
		palette: map[string]string{}, bars: map[string]*pb.ProgressBar{},
	}
}

// reserve gives each name its colour and makes the prefixes equally wide.
func (v *view) reserve(names []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, n := range names {
		if _, ok := v.palette[n]; !ok {
			v.palette[n] = colours[len(v.palette)%len(colours)]
		}
		v.width = max(v.width, len(n))
	}
}

// line prints one line of a container.
func (v *view) line(name string, text []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	if v.colour {
		fmt.Fprintf(v.out, "%s%-*s │%s %s\n", v.palette[name], v.width, name, plain, text)
	} else {
		fmt.Fprintf(v.out, "%-*s | %s\n", v.width, name, text)
	}
	v.draw()
}

// note prints one line of Berth's own.
func (v *view) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	text := fmt.Sprintf(format, args...)
	if v.colour && v.redraw {
		fmt.Fprintf(v.err, "%s%sberth:%s %s\n", dim, bold, plain, text)
	} else {
		fmt.Fprintf(v.err, "berth: %s\n", text)
	}
	v.draw()
}

// raw prints text as it is.
func (v *view) raw(text []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	v.out.Write(text)
	v.draw()
}

// progress redraws the bar called name; done takes it away. Where nothing can be redrawn it prints
// nothing: what has begun and ended is told by notes.
func (v *view) progress(name string, current, total int64, detail string, done bool) {
	if !v.redraw {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if done {
		delete(v.bars, name)
	} else {
		bar := v.bars[name]
		if bar == nil {
			bar = pb.New64(total).Set(pb.Bytes, true).Set(pb.Static, true).SetWriter(v.err).
				SetTemplateString(`{{string . "name"}} {{bar . }} {{counters . }} {{speed . }} {{string . "detail"}}`).Start()
			v.bars[name] = bar
		}
		bar.Set("name", name).Set("detail", detail).SetTotal(total).SetCurrent(current)
	}
	v.clear()
	v.draw()
}

// clear wipes the line of progress. The caller holds v.mu.
func (v *view) clear() {
	if v.drawn {
		io.WriteString(v.err, redraw)
		v.drawn = false
	}
}

// draw puts the bar of one pull at the cursor. The caller holds v.mu.
func (v *view) draw() {
	for _, bar := range v.bars {
		io.WriteString(v.err, strings.TrimSpace(bar.String()))
		v.drawn = true
		return
	}
}

// lines is a writer that gives whole lines on.
type lines struct {
	each func([]byte)
	rest []byte
}

// maxLine bounds what is kept of a line that does not end; more is printed as another line.
const maxLine = 64 << 10

func (v *view) writer(name string) *lines {
	return &lines{each: func(b []byte) { v.line(name, b) }}
}

func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.rest = append(l.rest, p...)
			if len(l.rest) >= maxLine {
				l.flush()
			}
			break
		}
		if len(l.rest) > 0 {
			l.rest = append(l.rest, p[:i]...)
			l.flush()
		} else {
			l.each(p[:i])
		}
		p = p[i+1:]
	}
	return n, nil
}

// flush gives on what has no end of line.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(l.rest)
		l.rest = l.rest[:0]
	}
}
