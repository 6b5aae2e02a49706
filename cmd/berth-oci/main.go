// Command berth-oci is Berth's engine as an OCI runtime: a program for containerd's BinaryName, Docker's
// --add-runtime and whatever else calls runc. It is `berth oci` in a binary of its own, since such
// callers take a program without arguments, and since it is started several times for each container: it
// links the engine and nothing else.
package main

import (
	"context"
	"os"

	"github.com/11f9778f/berth/internal/oci"
)

// version is set by the linker.
var version = "unknown"

func main() {
	os.Exit(oci.Main(context.Background(), oci.Invocation{
		Name: "berth-oci", Version: version, Args: os.Args[1:], In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
	}))
}
