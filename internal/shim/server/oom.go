package server

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/11f9778f/berth/internal/sys"
)

// maxVictims bounds how many processes are named that the OOM killer has ended.
const maxVictims = 8

// oomVictims names the processes of the cgroup that the OOM killer has ended, the last ones, as the kernel's log tells. If
// that can't be read, or has forgotten, there are none.
func (s *Server) oomVictims(cgroup string) []string {
	var victims []string
	err := sys.KernelLog(func(text string) {
		if v := oomVictim(text, cgroup); v != "" {
			victims = append(victims, v)
		}
	})
	if err != nil {
		s.log.Debug("the OOM killer's victim has no name", "cgroup", cgroup, "err", err)
	}
	return victims[max(0, len(victims)-maxVictims):]
}

// oomVictim reads the line that the kernel writes for each kill (mm/oom_kill.c, dump_oom_victim since 5.0):
//
//	oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=dd,pid=17,uid=0
//
// The process must be in the cgroup or below it. A name is what the process calls itself, and may hold anything.
func oomVictim(text, cgroup string) string {
	if !strings.HasPrefix(text, "oom-kill:") || cgroup == "" {
		return ""
	}
	_, rest, ok := strings.Cut(text, ",task_memcg=")
	if !ok {
		return ""
	}
	group, rest, ok := strings.Cut(rest, ",task=")
	if !ok || group != cgroup && !strings.HasPrefix(group, cgroup+"/") {
		return ""
	}
	end := strings.LastIndex(rest, ",uid=")
	if end < 0 {
		return ""
	}
	at := strings.LastIndex(rest[:end], ",pid=")
	if at < 0 {
		return ""
	}
	pid, err := strconv.Atoi(rest[at+len(",pid=") : end])
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s (pid %d)", strings.ToValidUTF8(strings.Map(printable, rest[:at]), "?"), pid)
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '?'
	}
	return r
}
