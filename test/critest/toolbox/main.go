// Command toolbox is what the test images need and Debian's busybox lacks, as one static program that
// does what its name says:
//
//	pgrep NAME   prints the pids of processes so called; exit code 1 if there is none
//	ipcs -m      prints the kernel's list of shared memory segments
//	nnp          prints its effective user id; it is setuid root in its image
//	pause        waits for SIGTERM and reaps children
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "pgrep":
		os.Exit(pgrep(os.Args[1:]))
	case "ipcs":
		b, err := os.ReadFile("/proc/sysvipc/shm")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write(b)
	case "nnp":
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
	case "pause":
		pause()
	default:
		fmt.Fprintf(os.Stderr, "toolbox: there is no tool %q\n", name)
		os.Exit(127)
	}
}

func pgrep(args []string) int {
	if len(args) != 1 {
		return 2
	}
	found := 1
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if pid == os.Getpid() {
			continue
		}
		comm, _ := os.ReadFile(d + "/comm")
		cmd, _ := os.ReadFile(d + "/cmdline")
		first, _, _ := strings.Cut(string(cmd), "\x00")
		if strings.Contains(string(comm), args[0]) || filepath.Base(first) == args[0] {
			fmt.Println(pid)
			found = 0
		}
	}
	return found
}

func pause() {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range c {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
	}
}
