package engine

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// shownBy tells for the fields of a spec (config.md, config-linux.md), by the beginnings of their paths, which tests show
// what the engine makes of them; the longest beginning counts. "ignored" is what no runtime on Linux looks at, with the reason.
var shownBy = map[string]string{
	"ociVersion":                     "TestFeaturesNameWhatIsAccepted",
	"annotations":                    "TestHooks", // they are told to hooks; no container gets them
	"hostname":                       "TestNamespacesAndNames",
	"domainname":                     "TestNamespacesAndNames",
	"root":                           "TestRunAndExitCode TestMaskedAndReadonlyPaths TestStackedRootfs",
	"mounts":                         "TestMounts TestRecursiveAttributesAndPropagation TestTmpCopyUp TestRemount TestAttackOnMountDestinations",
	"mounts.uidMappings":             "TestIDMappedMounts",
	"mounts.gidMappings":             "TestIDMappedMounts",
	"hooks":                          "TestHooks TestFailingHooks TestHookTimeoutAndPoststopFailure",
	"process.terminal":               "TestTerminal",
	"process.consoleSize":            "TestTerminal",
	"process.user":                   "TestUserCapabilitiesAndSeccomp",
	"process.user.umask":             "TestUmaskAndDeviceModes",
	"process.user.username":          "ignored: of Windows; here users have numbers",
	"process.args":                   "TestRunAndExitCode TestProgramNotFound",
	"process.commandLine":            "TestFieldsOfOtherSystemsAreRefused",
	"process.env":                    "TestRunAndExitCode TestMendEnv",
	"process.cwd":                    "TestWorkingDirectoryOfTheUser TestWorkingDirectoryThroughADescriptorIsRefused",
	"process.capabilities":           "TestUserCapabilitiesAndSeccomp TestNoInheritableCapabilities",
	"process.rlimits":                "TestRlimits",
	"process.noNewPrivileges":        "TestUserCapabilitiesAndSeccomp",
	"process.apparmorProfile":        "TestAppArmor TestLabelsNeedTheirModule",
	"process.oomScoreAdj":            "TestOOMScore",
	"process.scheduler":              "TestSchedulerAndIOPriority TestRealtimeScheduler",
	"process.selinuxLabel":           "TestLabelsNeedTheirModule",
	"process.ioPriority":             "TestSchedulerAndIOPriority",
	"process.execCPUAffinity":        "TestExecCPUAffinity",
	"linux.uidMappings":              "TestUserNamespace TestUserNamespaceFailuresLeaveNothing",
	"linux.gidMappings":              "TestUserNamespace TestUserNamespaceFailuresLeaveNothing",
	"linux.sysctl":                   "TestSysctl TestAttackBySysctls",
	"linux.resources":                "TestEveryResourceIsWrittenOrRefused",
	"linux.resources.devices":        "TestDevicesOfTheSpec TestDefaultDevicesAreAlwaysPermitted",
	"linux.cgroupsPath":              "TestPauseKillAndStats TestContainerInAScope",
	"linux.namespaces":               "TestNamespacesAndNames TestPinNamespaces TestPodUserNamespace",
	"linux.devices":                  "TestDevicesOfTheSpec TestUmaskAndDeviceModes",
	"linux.netDevices":               "TestNetDevices",
	"linux.seccomp":                  "TestUserCapabilitiesAndSeccomp TestEmptySeccompProfileIsAnError TestKernelObeys TestProgramsAgainstNaiveEvaluation",
	"linux.seccomp.listenerPath":     "TestSeccompNotify",
	"linux.seccomp.listenerMetadata": "TestSeccompNotify",
	"linux.rootfsPropagation":        "TestRootfsPropagation",
	"linux.maskedPaths":              "TestMaskedAndReadonlyPaths TestMaskIsTheRealNull",
	"linux.readonlyPaths":            "TestMaskedAndReadonlyPaths",
	"linux.mountLabel":               "TestLabelsNeedTheirModule",
	"linux.intelRdt":                 "TestRDTClassThatIsThere TestRDTNeedsResctrl",
	"linux.memoryPolicy":             "TestPersonalityAndMemoryPolicy",
	"linux.personality":              "TestPersonalityAndMemoryPolicy",
	"linux.timeOffsets":              "TestTimeNamespace",
}

// Every field of a spec for Linux is in the list above, and the tests that it names are there: one that a new version of
// the specification brings fails here.
func TestEveryFieldIsShown(t *testing.T) {
	tests := testNames(t)
	used := map[string]bool{}
	for _, path := range fieldPaths(reflect.TypeFor[specs.Spec](), "") {
		if system, _, _ := strings.Cut(path, "."); strings.Contains("solaris windows vm zos freebsd", system) {
			continue // TestFieldsOfOtherSystemsAreRefused
		}
		best := ""
		for prefix := range shownBy {
			if (path == prefix || strings.HasPrefix(path, prefix+".")) && len(prefix) > len(best) {
				best = prefix
			}
		}
		if best == "" {
			t.Errorf("%s: nothing says what becomes of it", path)
		}
		used[best] = true
	}
	for prefix, names := range shownBy {
		if !used[prefix] {
			t.Errorf("%s: the specification has no such field", prefix)
		}
		if strings.HasPrefix(names, "ignored: ") {
			continue
		}
		for _, name := range strings.Fields(names) {
			if !tests[name] {
				t.Errorf("%s: there is no %s", prefix, name)
			}
		}
	}
}

// testNames are those of the engine's tests.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	for _, dir := range []string{".", "cgroup", "seccomp", "systemd"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range function.FindAllSubmatch(b, -1) {
				names[string(m[1])] = true
			}
		}
	}
	return names
}

// fieldPaths are the paths of a structure's fields that are no structures themselves, by their names in JSON.
func fieldPaths(typ reflect.Type, at string) (paths []string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return []string{strings.TrimPrefix(at, ".")}
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			paths = append(paths, fieldPaths(f.Type, at)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		paths = append(paths, fieldPaths(f.Type, at+"."+name)...)
	}
	return paths
}

// What is for another system is refused by name.
func TestFieldsOfOtherSystemsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"Solaris": func(s *specs.Spec) { s.Solaris = &specs.Solaris{} }, "Windows": func(s *specs.Spec) { s.Windows = &specs.Windows{} },
		"virtual machine": func(s *specs.Spec) { s.VM = &specs.VM{} }, "z/OS": func(s *specs.Spec) { s.ZOS = &specs.ZOS{} },
		"FreeBSD": func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} }, "process.commandLine": func(s *specs.Spec) { s.Process.CommandLine = "x" },
	} {
		s := DefaultSpec()
		s.Root.Path, s.Process.Args = "/", []string{"x"}
		change(s)
		if err := validate(CreateOptions{ID: "x", Spec: s}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A limit holds as it is given, hard and soft; what is no limit is refused.
func TestRlimits(t *testing.T) {
	o := options(t, "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc")
	o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
	check(t, o, "100\n200\n0")
	o.ID += "b"
	o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}}
	if _, err := Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), "rlimits") {
		t.Errorf("%v", err)
	}
}
