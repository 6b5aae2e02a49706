package seccomp

import (
	"fmt"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Default is the RuntimeDefault profile (moby's, which containerd and CRI-O use too) for this kernel and a
// container whose bounding set has the given capabilities ("CAP_SYS_ADMIN"): some of them open the
// system calls that need them.
func Default(caps []string) (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
	})
	if err != nil {
		return nil, fmt.Errorf("make the default seccomp profile: %w", err)
	}
	return profile, nil
}
