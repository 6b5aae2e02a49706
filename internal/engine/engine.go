package engine

import (
	"log/slog"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Mount is one step of a root filesystem: a filesystem type, its source and fstab-style options, as
// containerd's types.Mount has it. A bind of a prepared directory is {Type: "bind", Source: dir,
// Options: ["rbind"]}.
//
// Two options translate the owners of what is mounted, for containers in user namespaces, in the form
// that containerd writes: "uidmap=C:H:N" and "gidmap=C:H:N", several maps separated by commas: number C
// and the N-1 behind it on disk are H and so on for the host, that is, C in a container whose user namespace
// has the same map. Of an overlay the lower layers are translated; what is written to the upper one
// belongs to the host's numbers, and its top directory, if the host's root owns it, is given to the map's.
type Mount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Options []string `json:"options,omitempty"`
	// Target is where in the mounts before it this one goes; "" is the root.
	Target string `json:"target,omitempty"`
}

// Stdio is what a process gets as descriptors 0, 1 and 2. A nil file means /dev/null. The engine
// duplicates what it needs; the caller keeps its files and may close them once the call has
// returned. With a terminal (specs.Process.Terminal) all three are ignored and Process.Console
// returns the master.
type Stdio struct {
	In, Out, Err *os.File
}

// CreateOptions says what to make a container from.
type CreateOptions struct {
	// ID names the container in errors and, where the spec has no cgroupsPath, its cgroup.
	ID string
	// Bundle is the OCI bundle's directory: relative paths of the spec start there. The engine
	// reads no config.json from it; see LoadSpec.
	Bundle string
	Spec   *specs.Spec
	// Rootfs, if any, is mounted in the container's own mount namespace as its root, so nothing of
	// it is seen on the host. Without it, Spec.Root.Path is the root.
	Rootfs []Mount
	Stdio  Stdio
	// Files become descriptors 3, 4, … of the container's program, as with Stdio by duplicates.
	Files []*os.File
	// NoPivot leaves the host's root filesystem mounted below the container's and changes the root
	// directory only: for a host that runs from an initramfs, which can't be pivoted.
	NoPivot bool
	// FindProgram makes a program that is not there an error of Create; else it is one of Start.
	FindProgram bool
	// NoKeyring leaves the container its creator's session keyring.
	NoKeyring bool
	// Scopes, if any, makes the container's cgroup.
	Scopes Scopes
	// Log is told of failures that change nothing: those of poststop hooks. nil: nobody is.
	Log *slog.Logger
	// Specs, which may be nil, is where Spec was loaded with.
	Specs *SpecCache
	// Blank, which may be nil, is what a new mount namespace begins with once it is prepared, where that can be.
	Blank *BlankMounts
}

// ExecOptions says what to run in a running container.
type ExecOptions struct {
	// ID names the process in errors.
	ID      string
	Process *specs.Process
	Stdio   Stdio
	// Files become descriptors 3, 4, … of the program.
	Files []*os.File
	// Cgroups are cgroups below the container's that the process runs in: by cgroup v1 controller, or "" for all.
	// They exist.
	Cgroups map[string]string
	// Leave is for a caller that ends now and leaves the process to its own reaper (a subreaper, or
	// init): the engine does not reap it, unless Wait is called.
	Leave bool
}

// ExitStatus is how a process ended.
type ExitStatus struct {
	// Code is the exit code, 128+n for a process that signal n ended.
	Code int `json:"code"`
	// Signal is the number of the signal that ended the process, 0 if it exited.
	Signal int `json:"signal,omitempty"`
	// At is when the engine learnt of the end.
	At time.Time `json:"at"`
	// Unknown is set where the kernel could not tell the code any more (the process was adopted
	// after its parent died, and the kernel is older than 6.15). Code is 255 then and Reason says why.
	Unknown bool   `json:"unknown,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// State is what survives the process that created a container: enough for Adopt to take it over.
// It is plain data; the caller stores it where it likes.
type State struct {
	ID         string    `json:"id"`
	Bundle     string    `json:"bundle"`
	Pid        int       `json:"pid"`
	StartTime  uint64    `json:"startTime"` // field 22 of /proc/PID/stat: with Pid it names a process for good
	Created    time.Time `json:"created"`
	Scope      string    `json:"scope,omitempty"` // the service manager's name for it, if CreateOptions.Scopes made it
	CgroupPath string    `json:"cgroupPath"`      // as in Spec.Linux.CgroupsPath, resolved
	Started    bool      `json:"started"`         // false: created, still waiting for Start
	Paused     bool      `json:"paused,omitempty"`
	Files      int       `json:"files,omitempty"` // how many of CreateOptions.Files the program gets
	// Chroot: the first process's root is not that of its mount namespace, for it has none of its own or did not pivot.
	Chroot    bool `json:"chroot,omitempty"`
	NoKeyring bool `json:"noKeyring,omitempty"` // it shares its creator's session keyring
}
