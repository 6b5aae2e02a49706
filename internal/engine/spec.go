package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxConfig bounds config.json: 16 MiB holds any honest spec a hundred times over.
const maxConfig = 16 << 20

// LoadSpec reads the bundle's config.json.
func LoadSpec(bundle string) (*specs.Spec, error) {
	var b bytes.Buffer
	if err := readConfig(bundle, &b); err != nil {
		return nil, err
	}
	return ParseSpec(b.Bytes())
}

func readConfig(bundle string, b *bytes.Buffer) error {
	path := filepath.Join(bundle, "config.json")
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := b.ReadFrom(io.LimitReader(f, maxConfig+1)); err != nil {
		return err
	}
	if b.Len() > maxConfig {
		return fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	return nil
}

// ParseSpec decodes an OCI runtime configuration.
func ParseSpec(b []byte) (*specs.Spec, error) {
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if err := restoreRawEnv(&s); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return &s, nil
}

// DefaultSpec is what a container gets that asks for nothing: own namespaces (but for the network, which
// is the caller's to decide), the usual filesystems, masked kernel interfaces, the capabilities of an
// ordinary container, and no program to run.
func DefaultSpec() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Cwd:             "/",
			Env:             []string{"PATH=" + defaultPath},
			NoNewPrivileges: true,
			Capabilities:    defaultCapabilities(),
		},
		Mounts: defaultMounts(),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{Devices: defaultDeviceRules()},
			MaskedPaths: []string{
				"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func defaultMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

func defaultCapabilities() *specs.LinuxCapabilities {
	list := func() []string {
		return []string{
			"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
			"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
		}
	}
	return &specs.LinuxCapabilities{Bounding: list(), Effective: list(), Permitted: list()}
}

// withDefaultDevices permits the default devices even where the rules of the spec forbid them: every container
// has them (runtime-spec config-linux.md, Default Devices), and other runtimes permit them too.
func withDefaultDevices(r *specs.LinuxResources) *specs.LinuxResources {
	if len(r.Devices) == 0 {
		return r
	}
	more := *r
	more.Devices = append(append([]specs.LinuxDeviceCgroup(nil), r.Devices...), defaultDeviceRules()[1:]...)
	return &more
}

// defaultDeviceRules forbid every device and permit those that defaultDevices makes, terminals, and the
// making of nodes.
func defaultDeviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	allow := func(kind string, major, minor *int64, access string) {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: major, Minor: minor, Access: access})
	}
	allow("c", nil, nil, "m")
	allow("b", nil, nil, "m")
	for _, d := range defaultDevices {
		allow("c", &d.Major, &d.Minor, "rwm")
	}
	ptmx, console, pts := []int64{5, 2}, []int64{5, 1}, int64(136)
	allow("c", &ptmx[0], &ptmx[1], "rwm")
	allow("c", &console[0], &console[1], "rwm")
	allow("c", &pts, nil, "rwm")
	return rules
}
