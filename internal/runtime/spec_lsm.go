package runtime

import (
	"context"
	"fmt"
	"strings"
)

// labels puts the process under the node's security modules. A privileged container is under none.
func (b *specBuilder) labels(ctx context.Context) (err error) {
	sec := b.container.Spec.Security
	if sec.Privileged {
		return nil
	}
	if b.out.Process.ApparmorProfile, err = b.lsm.AppArmor(ctx, sec.AppArmor, sec.AppArmorProfile); err != nil {
		return err
	}
	// A container without options of its own shares the pod's label, so that it can use the pod's files.
	b.out.Process.SelinuxLabel, b.out.Linux.MountLabel = b.sandbox.SELinuxLabel, b.sandbox.SELinuxMount
	if sec.SELinux == nil {
		return nil
	}
	o := *sec.SELinux
	if parts := strings.SplitN(b.sandbox.SELinuxLabel, ":", 4); o.Level == "" && len(parts) == 4 {
		o.Level = parts[3]
	}
	b.out.Process.SelinuxLabel, b.out.Linux.MountLabel, err = b.lsm.SELinux(o)
	if err != nil {
		return fmt.Errorf("SELinux label: %w", err)
	}
	return nil
}

// label chooses the pod's SELinux labels.
func (sb *sandbox) label() error {
	spec := sb.get().Spec
	if spec.Privileged {
		return nil
	}
	var o SELinux
	if spec.SELinux != nil {
		o = *spec.SELinux
	}
	process, files, err := sb.r.cfg.LSM.SELinux(o)
	if err != nil {
		return fmt.Errorf("SELinux label: %w", err)
	}
	sb.set(func(s *SandboxStatus) { s.SELinuxLabel, s.SELinuxMount = process, files })
	return nil
}
