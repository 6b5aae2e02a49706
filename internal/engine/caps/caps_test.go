package caps

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestNamesAndNumbers(t *testing.T) {
	// Numbers from include/uapi/linux/capability.h, spread over the table.
	for name, want := range map[string]int{
		"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24,
		"CAP_SETFCAP": 31, "CAP_SYSLOG": 34, "CAP_AUDIT_READ": 37, "CAP_CHECKPOINT_RESTORE": 40,
	} {
		n, err := Number(name)
		if err != nil || n != want {
			t.Errorf("Number(%s) = %d, %v; want %d", name, n, err, want)
		}
		if Name(want) != name {
			t.Errorf("Name(%d) = %s, want %s", want, Name(want), name)
		}
	}
	if Name(63) != "CAP_63" || Name(-1) != "CAP_-1" {
		t.Errorf("names beyond the table: %s, %s", Name(63), Name(-1))
	}
}

func TestFromSpec(t *testing.T) {
	s, err := FromSpec(&specs.LinuxCapabilities{
		Bounding: []string{"CAP_KILL", "CAP_CHOWN"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
		Inheritable: []string{"CAP_CHOWN"}, Ambient: []string{"CAP_KILL"},
	})
	want := Sets{Bounding: 1<<5 | 1, Effective: 1 << 5, Permitted: 1 << 5, Inheritable: 1, Ambient: 1 << 5}
	if err != nil || s != want {
		t.Fatalf("got %+v, %v; want %+v", s, err, want)
	}
	if s.Bounding.String() != "CAP_CHOWN,CAP_KILL" {
		t.Errorf("String() = %s", s.Bounding)
	}
	if s, err := FromSpec(nil); err != nil || s != (Sets{}) {
		t.Errorf("nil spec: %+v, %v", s, err)
	}
	for _, bad := range []string{"CAP_NONE", "kill", "KILL", "cap_kill", "", "CAP_41"} {
		_, err := FromSpec(&specs.LinuxCapabilities{Ambient: []string{"CAP_KILL", bad}})
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "ambient") || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: error %v does not name the set and the capability", bad, err)
		}
	}
}

func TestCurrentAgreesWithProc(t *testing.T) {
	h, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for field, mask := range map[string]Mask{"CapBnd": h.Bounding, "CapPrm": h.Permitted} {
		if want := fmt.Sprintf("%s:\t%016x\n", field, uint64(mask)); !strings.Contains(string(status), want) {
			t.Errorf("/proc/thread-self/status has no line %q", want)
		}
	}
	last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		t.Skipf("the kernel tells no last capability: %v", err)
	}
	if got := fmt.Sprintln(h.Last); got != string(last) {
		t.Errorf("last capability %s, want %s", got, last)
	}
}

func TestClamp(t *testing.T) {
	const kill, chown, admin, resource = Mask(1 << 5), Mask(1), Mask(1 << 21), Mask(1 << 24)
	held := Held{Last: 40, Bounding: kill | chown | admin, Permitted: kill | chown | resource}
	all := kill | chown | admin | resource
	tests := []struct {
		name     string
		in, want Sets
		dropped  Mask
	}{
		{"nothing asked", Sets{}, Sets{}, 0},
		{"all held", Sets{kill, kill, kill, kill, kill}, Sets{kill, kill, kill, kill, kill}, 0},
		{"lacking in bounding or permitted", Sets{all, all, all, all, all},
			Sets{kill | chown, kill | chown, kill | chown, kill | chown, kill | chown}, admin | resource},
		{"effective beyond permitted", Sets{Bounding: kill, Effective: kill}, Sets{Bounding: kill}, 0},
		{"inheritable beyond bounding", Sets{Bounding: kill, Permitted: chown, Inheritable: chown, Ambient: chown},
			Sets{Bounding: kill, Permitted: chown}, 0},
	}
	for _, tt := range tests {
		got, dropped := tt.in.Clamp(held)
		if got != tt.want || dropped != tt.dropped {
			t.Errorf("%s: got %+v, dropped %s; want %+v, dropped %s", tt.name, got, dropped, tt.want, tt.dropped)
		}
	}
}

func BenchmarkFromSpec(b *testing.B) {
	list := names[:14]
	c := &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}
	for b.Loop() {
		if _, err := FromSpec(c); err != nil {
			b.Fatal(err)
		}
	}
}
