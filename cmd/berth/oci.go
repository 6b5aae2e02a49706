package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/11f9778f/berth/internal/oci"
)

// ociName is the program's other name: a link called so is `berth oci`, for callers that take an OCI
// runtime without arguments.
const ociName = "berth-oci"

// calledAsRuntime tells whether the program was called by that name.
func calledAsRuntime(arg0 string) bool { return filepath.Base(arg0) == ociName }

// ociCommand is runc's command line. Its flags are not cobra's: they are runc's own.
func (c *cli) ociCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "oci COMMAND",
		Short: "Run OCI bundles: runc's command line over Berth's engine (also as berth-oci)",
		Long: `Run OCI bundles with runc's commands, flags, state and exit codes, over Berth's own engine:

  berth oci spec                 write a config.json to begin with
  berth oci run NAME             run the bundle in the working directory
  berth oci --help               all commands

Programs that call an OCI runtime by its name take berth-oci, which is the same in a smaller binary.`,
		DisableFlagParsing: true,
		Annotations:        map[string]string{anyone: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			return ociMain(cmd.Context(), "berth oci", args)
		},
	}
}

func ociMain(ctx context.Context, name string, args []string) error {
	code := oci.Main(ctx, oci.Invocation{Name: name, Version: version, Args: args, In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	if code == 0 {
		return nil
	}
	return exited(code)
}
