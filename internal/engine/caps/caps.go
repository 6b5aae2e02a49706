// Package caps translates Linux capabilities between the names of OCI specs ("CAP_NET_ADMIN") and the
// bitmasks of the kernel, and cuts a wish down to what this process can give.
//
// It applies nothing: whoever creates the process passes the masks to capset(2) and prctl(2).
package caps

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/sys"
)

// ErrUnknown is wrapped by errors that name a capability that does not exist.
var ErrUnknown = errors.New("unknown capability")

// names holds capabilities by number; include/uapi/linux/capability.h fixes the order for good.
var names = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// Mask is a set of capabilities: bit n is the capability with number n.
type Mask uint64

// Sets are the five capability sets of a process.
type Sets struct {
	Bounding, Effective, Permitted, Inheritable, Ambient Mask
}

// Number returns the number of a capability by its name, as "CAP_KILL".
func Number(name string) (int, error) {
	if n := slices.Index(names[:], name); n >= 0 {
		return n, nil
	}
	return 0, fmt.Errorf("%w %q", ErrUnknown, name)
}

// Name returns a capability's name, "CAP_n" for one that this table does not know.
func Name(n int) string {
	if n >= 0 && n < len(names) {
		return names[n]
	}
	return fmt.Sprintf("CAP_%d", n)
}

// Names returns the names of all capabilities that Berth knows, by number.
func Names() []string { return slices.Clone(names[:]) }

// Parse makes a set from names. The error names every unknown one.
func Parse(list []string) (Mask, error) {
	var m Mask
	var bad []string
	for _, name := range list {
		n, err := Number(name)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%q", name))
			continue
		}
		m |= 1 << n
	}
	if bad != nil {
		return 0, fmt.Errorf("%w %s", ErrUnknown, strings.Join(bad, ", "))
	}
	return m, nil
}

// Has tells whether capability n is in the set.
func (m Mask) Has(n int) bool { return m>>n&1 == 1 }

// Names lists the set by number.
func (m Mask) Names() []string {
	list := make([]string, 0, bits.OnesCount64(uint64(m)))
	for ; m != 0; m &= m - 1 {
		list = append(list, Name(bits.TrailingZeros64(uint64(m))))
	}
	return list
}

// String is the set as "CAP_KILL,CAP_SETUID".
func (m Mask) String() string { return strings.Join(m.Names(), ",") }

// FromSpec makes the sets that an OCI spec asks for. A nil spec means no capability at all, as
// runtime-spec config.md, "process.capabilities", leaves it to the runtime.
func FromSpec(c *specs.LinuxCapabilities) (Sets, error) {
	var s Sets
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		name string
		list []string
		mask *Mask
	}{
		{"bounding", c.Bounding, &s.Bounding}, {"effective", c.Effective, &s.Effective},
		{"permitted", c.Permitted, &s.Permitted}, {"inheritable", c.Inheritable, &s.Inheritable},
		{"ambient", c.Ambient, &s.Ambient},
	} {
		m, err := Parse(set.list)
		if err != nil {
			return Sets{}, fmt.Errorf("%s capabilities: %w", set.name, err)
		}
		*set.mask = m
	}
	return s, nil
}

// Held is what the calling thread holds and the kernel knows.
type Held struct {
	// Last is the number of the kernel's last capability.
	Last      int
	Bounding  Mask
	Permitted Mask
}

// Current asks the kernel what the calling thread holds. It costs some forty short system calls.
func Current() (Held, error) {
	bounding, last, err := sys.BoundingSet()
	if err != nil {
		return Held{}, fmt.Errorf("read the bounding set: %w", err)
	}
	_, permitted, _, err := sys.CapGet()
	if err != nil {
		return Held{}, fmt.Errorf("read the permitted set: %w", err)
	}
	return Held{Last: last, Bounding: Mask(bounding), Permitted: Mask(permitted)}, nil
}

// Clamp cuts the sets down to what h can give and keeps the kernel's own rules among them, so that
// applying the result does not fail: effective and ambient are parts of permitted, ambient is a part
// of inheritable, and inheritable of bounding (CVE-2022-29162: no set reaches beyond the bounding one).
// It returns the capabilities that were dropped from any set because h lacks them.
func (s Sets) Clamp(h Held) (Sets, Mask) {
	can := h.Bounding & h.Permitted
	asked := s.Bounding | s.Effective | s.Permitted | s.Inheritable | s.Ambient
	out := Sets{Bounding: s.Bounding & can}
	out.Permitted = s.Permitted & can
	out.Effective = s.Effective & out.Permitted
	out.Inheritable = s.Inheritable & out.Bounding
	out.Ambient = s.Ambient & out.Permitted & out.Inheritable
	return out, asked &^ can
}
