package runtime

import (
	"errors"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// cdi lets the descriptions of the node's CDI devices change the spec: nodes, mounts, variables, hooks.
// Only names in the request count; annotations, which travel with checkpoints and pods, do not.
func (b *specBuilder) cdi() error {
	return InjectCDI(b.out, b.cdiDirs, b.container.Spec.CDIDevices)
}

// InjectCDI applies the descriptions of CDI devices, which are in dirs, to a spec.
func InjectCDI(spec *specs.Spec, dirs, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return err
	}
	unknown, err := cache.InjectDevices(spec, names...)
	if len(unknown) > 0 {
		var why []error
		for _, list := range cache.GetErrors() {
			why = append(why, list...)
		}
		return invalid("CDI device %s is described by no file in %s%s", strings.Join(unknown, ", "), strings.Join(dirs, ", "), because(why))
	}
	return err
}

// because adds what is wrong with descriptions that could not be read.
func because(why []error) string {
	if err := errors.Join(why...); err != nil {
		return " (" + strings.ReplaceAll(err.Error(), "\n", "; ") + ")"
	}
	return ""
}
