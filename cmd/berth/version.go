package main

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func (c *cli) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:         "version",
		Short:       "Say which berth this is",
		Args:        cobra.NoArgs,
		Annotations: map[string]string{anyone: ""},
		RunE: func(*cobra.Command, []string) error {
			if output == "json" {
				return json.NewEncoder(c.out).Encode(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			_, err := fmt.Fprintf(c.out, "berth %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
	outputFlag(cmd, &output, "json")
	return cmd
}
