// Command block is what the benchmark's containers run: it says a line and waits to be killed. With the
// argument "true" it ends at once.
package main

import (
	"os"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "true" {
		return
	}
	os.Stdout.WriteString("up\n")
	for {
		syscall.Pause()
	}
}
