package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
)

// seLinux is nil for options that say nothing.
func seLinux(o *runtimeapi.SELinuxOption) *runtime.SELinux {
	if o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() == "" {
		return nil
	}
	return &runtime.SELinux{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}

// appArmor reads the field, or the string that it took the place of.
func appArmor(out *runtime.Security, sc *runtimeapi.LinuxContainerSecurityContext) error {
	const at = "config.linux.security_context."
	if p := sc.GetApparmor(); p != nil {
		switch p.GetProfileType() {
		case runtimeapi.SecurityProfile_RuntimeDefault:
		case runtimeapi.SecurityProfile_Unconfined:
			out.AppArmor = runtime.ProfileUnconfined
		case runtimeapi.SecurityProfile_Localhost:
			out.AppArmor, out.AppArmorProfile = runtime.ProfileLocalhost, strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
		default:
			return badRequest("%sapparmor.profile_type: unknown value %d", at, p.GetProfileType())
		}
	} else {
		//lint:ignore SA1019 old kubelets still send it
		old := sc.GetApparmorProfile()
		switch name, local := strings.CutPrefix(old, "localhost/"); {
		case old == "" || old == "runtime/default":
		case old == "unconfined":
			out.AppArmor = runtime.ProfileUnconfined
		case local:
			out.AppArmor, out.AppArmorProfile = runtime.ProfileLocalhost, name
		default:
			return badRequest("%sapparmor_profile: %q is no profile", at, old)
		}
	}
	if out.AppArmor == runtime.ProfileLocalhost && (out.AppArmorProfile == "" || strings.ContainsAny(out.AppArmorProfile, "\x00\n")) {
		return badRequest("%sapparmor: %q is no profile's name", at, out.AppArmorProfile)
	}
	return nil
}
