package server

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOOMVictim(t *testing.T) {
	line := func(group, name string) string {
		return "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/berth,task_memcg=" + group + ",task=" + name + ",pid=17,uid=0"
	}
	for text, want := range map[string]string{
		line("/berth/pod/c", "dd"):                "dd (pid 17)",
		line("/berth/pod/c/sub", "dd"):            "dd (pid 17)",
		line("/berth/pod/c", "a,pid=1,uid=2"):     "a,pid=1,uid=2 (pid 17)", // a name that lies
		line("/berth/pod/c", "x\ny"):              "x?y (pid 17)",
		line("/berth/pod/c2", "dd"):               "",
		line("/berth/pod", "dd"):                  "",
		"x " + line("/berth/pod/c", "dd"):         "", // what a process has written into the log itself
		"oom-kill:task_memcg=/berth/pod/c":        "",
		"oom-kill:,task_memcg=/berth/pod/c,task=": "",
	} {
		if got := oomVictim(text, "/berth/pod/c"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzOOMVictim(f *testing.F) {
	f.Add("oom-kill:,task_memcg=/c,task=dd,pid=17,uid=0")
	f.Fuzz(func(t *testing.T, text string) {
		if got := oomVictim(text, "/c"); strings.ContainsAny(got, "\n\x00") || !utf8.ValidString(got) {
			t.Errorf("%q", got)
		}
	})
}
