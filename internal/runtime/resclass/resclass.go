// Package resclass puts containers into the node's classes of block I/O and of Intel RDT (cache and memory bandwidth),
// by the annotations that Kubernetes' runtimes share:
//
//	blockio.resources.beta.kubernetes.io/pod: CLASS                of a pod, for all of its containers
//	blockio.resources.beta.kubernetes.io/container.NAME: CLASS     of a pod, for one of them
//	io.kubernetes.cri.blockio-class: CLASS                         of a container
//
// and rdt.resources.beta.kubernetes.io/… and io.kubernetes.cri.rdt-class likewise. What the classes are files say, in the
// format of github.com/intel/goresctrl, which containerd and CRI-O read, too. The library keeps them for the whole
// process, so that the last Load counts.
//
// A class that is not known is an error, also on a node where none are configured: a limit is never passed over.
package resclass

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/intel/goresctrl/pkg/blockio"
	"github.com/intel/goresctrl/pkg/rdt"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// rootClass is the class of RDT that a container is in without any.
const rootClass = "system/default"

// Classes are those of the node.
type Classes struct {
	blockIOFile, rdtFile string
}

// Load reads the files with the classes; "" is none. The one for RDT is applied to the kernel's resctrl filesystem, which
// must be mounted.
func Load(blockIOFile, rdtFile string) (*Classes, error) {
	if blockIOFile != "" {
		if err := blockio.SetConfigFromFile(blockIOFile, true); err != nil {
			return nil, fmt.Errorf("classes of block I/O: %w", err)
		}
	}
	if rdtFile != "" {
		if err := rdt.Initialize(""); err != nil {
			return nil, fmt.Errorf("classes of RDT: the resctrl filesystem: %w", err)
		}
		if err := rdt.SetConfigFromFile(rdtFile, true); err != nil {
			return nil, fmt.Errorf("classes of RDT: %w", err)
		}
	}
	return &Classes{blockIOFile, rdtFile}, nil
}

// Apply puts the container called name into its classes, by its own annotations and its pod's. The error wraps
// errdefs.ErrFailedPrecondition. The nil Classes are a node without any.
func (c *Classes) Apply(spec *specs.Spec, name string, own, pod map[string]string) error {
	if err := c.blockIO(spec, name, own, pod); err != nil {
		return fmt.Errorf("class of block I/O: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err := c.rdt(spec, name, own, pod); err != nil {
		return fmt.Errorf("class of RDT: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (c *Classes) blockIO(spec *specs.Spec, name string, own, pod map[string]string) error {
	class, err := blockio.ContainerClassFromAnnotations(name, own, pod)
	if err != nil || class == "" {
		return err
	}
	if c == nil || c.blockIOFile == "" {
		return fmt.Errorf("%q: this node has none (cgroup.blockio_config_file)", class)
	}
	limits, err := blockio.OciLinuxBlockIO(class)
	if err != nil {
		return err
	}
	if spec.Linux.Resources == nil {
		spec.Linux.Resources = &specs.LinuxResources{}
	}
	spec.Linux.Resources.BlockIO = limits
	return nil
}

func (c *Classes) rdt(spec *specs.Spec, name string, own, pod map[string]string) error {
	class, err := rdt.ContainerClassFromAnnotations(name, own, pod)
	if err != nil || class == "" || class == rootClass {
		return err
	}
	if c == nil || c.rdtFile == "" {
		return fmt.Errorf("%q: this node has none (cgroup.rdt_config_file)", class)
	}
	spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: class}
	return nil
}
