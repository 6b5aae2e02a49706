package lifecycle

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/manifest"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts in testdata anew")

// TestTranscripts plays the scripts in testdata/*.txt. A script is blocks of
//
//	command arguments
//	more input (of the command pod)
//	----
//	what happened
//
// and a blank line after each. Commands:
//
//	pod                     begins with a manifest
//	life NAME DURATION CODE its instances live so long and exit so; "ever" for ever
//	deaf NAME               it ignores SIGTERM
//	fail KEY N MESSAGE      the next N actions of that key (image/app, CreateSandbox, …) fail
//	probe NAME KIND BOOL    what its probes answer from now on
//	run DURATION            lets time pass
//	delete GRACE            asks for the pod's end
//	sandbox dies            its sandbox ends
//	daemon restarts
//
// go test -rewrite writes what happens now.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no transcripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(data))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(data) {
				t.Errorf("it went differently (go test -rewrite accepts it):\n%s", got)
			}
		})
	}
}

// play runs a script and returns it with what happened.
func play(t *testing.T, text string) string {
	var out bytes.Buffer
	s := &script{t: t, lives: map[string]life{}, deaf: map[string]bool{}, fails: map[string]*failing{}, probes: map[string]bool{}}
	var input []string
	inOutput := false
	for _, line := range strings.Split(text, "\n") {
		switch {
		case inOutput && line == "":
			inOutput = false
		case inOutput:
		case line == "----":
			s.said.Reset()
			s.command(input)
			fmt.Fprintf(&out, "%s\n----\n%s\n", strings.Join(input, "\n"), s.said.String())
			input, inOutput = nil, true
		case strings.HasPrefix(line, "#") && len(input) == 0:
			fmt.Fprintf(&out, "%s\n", line)
		case line != "" || len(input) > 0:
			input = append(input, line)
		}
	}
	return out.String()
}

type life struct {
	d    time.Duration
	code int32
}

type failing struct {
	n   int
	msg string
}

// script is a plan that follows commands.
type script struct {
	t      *testing.T
	w      *world
	said   bytes.Buffer
	lives  map[string]life
	deaf   map[string]bool
	fails  map[string]*failing
	probes map[string]bool // container/kind that fail
	last   string
}

func (s *script) action(a Action) outcome {
	o := outcome{after: map[Kind]time.Duration{EnsureImage: 200 * time.Millisecond, CreateSandbox: 10 * time.Millisecond}[a.Kind]}
	if o.after == 0 {
		o.after = time.Millisecond
	}
	if f := s.fails[a.Key()]; f != nil && f.n > 0 {
		f.n--
		o.err = f.msg
	}
	return o
}

func (s *script) life(name string, _ uint32) (time.Duration, int32) {
	if l, ok := s.lives[name]; ok {
		return l.d, l.code
	}
	return -1, 0
}

func (s *script) dies(name string) time.Duration {
	if s.deaf[name] {
		return -1
	}
	return 5 * time.Millisecond
}

func (s *script) probe(name string, k ProbeKind, _ uint32) bool { return !s.probes[name+"/"+string(k)] }
func (s *script) lag() time.Duration                            { return time.Millisecond }

func (s *script) command(lines []string) {
	f := strings.Fields(lines[0])
	duration := func(i int) time.Duration {
		d, err := time.ParseDuration(f[i])
		if err != nil {
			s.t.Fatal(err)
		}
		return d
	}
	switch f[0] {
	case "pod":
		m, err := manifest.Parse([]byte(strings.Join(lines[1:], "\n")))
		if err != nil {
			s.t.Fatal(err)
		}
		m.Pods[0].UID = "uid"
		s.w = newWorld(s.t, m.Pods[0], s)
		s.w.log = func(format string, args ...any) { fmt.Fprintf(&s.said, format+"\n", args...) }
	case "life":
		l := life{d: -1}
		if f[2] != "ever" {
			code, _ := strconv.Atoi(f[3])
			l = life{duration(2), int32(code)}
		}
		s.lives[f[1]] = l
	case "deaf":
		s.deaf[f[1]] = true
	case "fail":
		n, _ := strconv.Atoi(f[2])
		s.fails[f[1]] = &failing{n, strings.Join(f[3:], " ")}
	case "probe":
		s.probes[f[1]+"/"+f[2]] = f[3] != "true"
	case "run":
		s.w.run(s.w.now.Add(duration(1)), s.tell)
	case "delete":
		s.w.obs.Deletion = &Deletion{At: s.w.now, Grace: duration(1)}
	case "sandbox":
		for _, sb := range s.w.sandboxes {
			s.w.endSandbox(sb.ID, 137)
		}
		s.w.after(time.Millisecond, "", s.w.learnAll)
	case "daemon":
		s.w.restartDaemon()
	default:
		s.t.Fatalf("there is no command %q", lines[0])
	}
}

// tell prints the status where it has changed.
func (s *script) tell() {
	line := s.w.summary()
	if s.w.gone {
		line = "gone"
	}
	if line != s.last {
		fmt.Fprintf(&s.said, "%8s      %s\n", s.w.clock(), line)
		s.last = line
	}
}
