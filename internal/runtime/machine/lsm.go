package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/apparmor"
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"

	"github.com/11f9778f/berth/internal/runtime"
)

// defaultProfile is the AppArmor profile of containers that ask for the runtime's own.
const defaultProfile = "berth-default"

// LSM is runtime.LSM on the machine's security modules.
type LSM struct {
	once sync.Once
	err  error
}

var _ runtime.LSM = (*LSM)(nil)

// appArmorEnabled tells whether the kernel has AppArmor and the machine the program that loads profiles.
func appArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil || !strings.HasPrefix(string(b), "Y") {
		return false
	}
	_, err = exec.LookPath("apparmor_parser")
	return err == nil
}

// AppArmor returns a profile that is loaded. The default one is loaded when it is first wanted.
func (l *LSM) AppArmor(_ context.Context, mode runtime.ProfileMode, name string) (string, error) {
	switch {
	case mode == runtime.ProfileUnconfined:
		return "", nil
	case !appArmorEnabled() && mode == runtime.ProfileDefault:
		return "", nil
	case !appArmorEnabled():
		return "", fmt.Errorf("AppArmor profile %q: this node has no AppArmor: %w", name, errdefs.ErrInvalidArgument)
	case mode == runtime.ProfileDefault:
		l.once.Do(func() { l.err = apparmor.InstallDefault(defaultProfile) })
		return defaultProfile, l.err
	}
	loaded, err := apparmor.IsLoaded(name)
	if err != nil {
		return "", fmt.Errorf("look for AppArmor profile %q: %w", name, err)
	}
	if !loaded {
		return "", fmt.Errorf("AppArmor profile %q is not loaded on this node: %w", name, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

// SELinux makes labels, none where SELinux is off.
func (*LSM) SELinux(o runtime.SELinux) (process, files string, err error) {
	if !selinux.GetEnabled() {
		return "", "", nil
	}
	var options []string
	for _, x := range []struct{ key, value string }{{"user", o.User}, {"role", o.Role}, {"type", o.Type}, {"level", o.Level}} {
		if x.value != "" {
			options = append(options, x.key+":"+x.value)
		}
	}
	process, files, err = label.InitLabels(options)
	if err != nil {
		err = errors.Join(err, errdefs.ErrInvalidArgument)
	}
	return process, files, err
}

// Release gives a label's category back.
func (*LSM) Release(process string) {
	if process != "" {
		selinux.ReleaseLabel(process)
	}
}

// Reserve takes a category that is in use. Pods that chose theirs may share one: then it is taken already.
func (*LSM) Reserve(process string) {
	if process != "" && selinux.GetEnabled() {
		_ = selinux.ReserveLabelV2(process)
	}
}

// Relabel gives a folder and all below it a label.
func (*LSM) Relabel(path, files string) error { return label.Relabel(path, files, false) }
