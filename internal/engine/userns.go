package engine

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/11f9778f/berth/internal/engine/stage"
)

// IDMappings are the maps of a user namespace or of an idmapped mount: ContainerID is the number inside (of a mount:
// the one on disk), HostID the one that the host sees.
type IDMappings struct {
	UID, GID []specs.LinuxIDMapping
}

// maxMappings is the kernel's limit of lines of a map (user_namespaces(7)).
const maxMappings = 340

// check refuses maps that the kernel would refuse; name is the field's.
func (m IDMappings) check(name string) error {
	if len(m.UID) == 0 || len(m.GID) == 0 {
		return fmt.Errorf("%s: both uid and gid mappings are needed", name)
	}
	for kind, list := range map[string][]specs.LinuxIDMapping{"uid": m.UID, "gid": m.GID} {
		if len(list) > maxMappings {
			return fmt.Errorf("%s: %d %s mappings, the kernel takes %d", name, len(list), kind, maxMappings)
		}
		for n, e := range list {
			if e.Size == 0 || uint64(e.ContainerID)+uint64(e.Size) > 1<<32-1 || uint64(e.HostID)+uint64(e.Size) > 1<<32-1 {
				return fmt.Errorf("%s: %s mapping %d of size %d is empty or too large", name, kind, n, e.Size)
			}
		}
	}
	return nil
}

// mapText is the content of /proc/PID/uid_map.
func mapText(list []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// writeMaps gives the new user namespace of process pid its maps.
func writeMaps(pid int, uid, gid []specs.LinuxIDMapping) error {
	for _, m := range []struct {
		file, field string
		list        []specs.LinuxIDMapping
	}{{"uid_map", "linux.uidMappings", uid}, {"gid_map", "linux.gidMappings", gid}} {
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/"+m.file, []byte(mapText(m.list)), 0); err != nil {
			return fmt.Errorf("%s: %w", m.field, err)
		}
	}
	return nil
}

// newUserNamespace makes a user namespace with these maps that no process is in. It lives as long as it is open or
// bound.
func newUserNamespace(m IDMappings) (*os.File, error) {
	var ns *os.File
	err := bornIn(unix.CLONE_NEWUSER, func(s *stage.Stage) (err error) {
		if err := writeMaps(s.Pid, m.UID, m.GID); err != nil {
			return err
		}
		ns, err = os.Open("/proc/" + strconv.Itoa(s.Pid) + "/ns/user")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("new user namespace: %w", err)
	}
	return ns, nil
}

// bornIn calls f while a child in new namespaces waits for programs, and ends the child.
func bornIn(flags uintptr, f func(*stage.Stage) error) error {
	l, err := launcher()
	if err != nil {
		return err
	}
	s, err := l.Start(stage.Attr{Cloneflags: flags})
	if err != nil {
		return err
	}
	err = f(s)
	s.Close()
	s.PidFD.Close()
	unix.Kill(s.Pid, unix.SIGKILL)
	for {
		if _, werr := unix.Wait4(s.Pid, nil, 0, nil); !errors.Is(werr, unix.EINTR) {
			return err
		}
	}
}

// userNamespaceOf opens the user namespace of a process.
func userNamespaceOf(pid int) (*os.File, error) {
	return os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
}

// ownedBy tells whether the namespace in the file at path belongs to the user namespace owner.
func ownedBy(path string, owner *os.File) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if errors.Is(err, unix.EPERM) { // it belongs to one above ours
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "find owner of namespace", Path: path, Err: err}
	}
	of := os.NewFile(uintptr(fd), path)
	defer of.Close()
	a, err := of.Stat()
	if err != nil {
		return false, err
	}
	b, err := owner.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// hostID translates a number of the container into one of the host by the maps; without maps it is the same.
func hostID(list []specs.LinuxIDMapping, id uint32) (uint32, error) {
	if len(list) == 0 {
		return id, nil
	}
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), nil
		}
	}
	return 0, fmt.Errorf("id %d is not in the mappings: %w", id, syscall.EOVERFLOW)
}

// parseMappings reads an idmapped rootfs's option: "C:H:N[,C:H:N]", as containerd writes it.
func parseMappings(s string) ([]specs.LinuxIDMapping, error) {
	var list []specs.LinuxIDMapping
	for part := range strings.SplitSeq(s, ",") {
		f := strings.Split(part, ":")
		if len(f) != 3 {
			return nil, fmt.Errorf("mapping %q is not CONTAINER:HOST:SIZE", part)
		}
		var n [3]uint32
		for i, text := range f {
			v, err := strconv.ParseUint(text, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("mapping %q: %w", part, err)
			}
			n[i] = uint32(v)
		}
		list = append(list, specs.LinuxIDMapping{ContainerID: n[0], HostID: n[1], Size: n[2]})
	}
	return list, nil
}
