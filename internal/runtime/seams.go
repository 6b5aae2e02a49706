package runtime

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/11f9778f/berth/internal/engine"
	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/trace"
)

// Image is what the runtime needs to know of an image.
type Image struct {
	ID string // digest of its configuration
	// Ref names it by digest, where one is known; else it is a tag or the ID.
	Ref string
	// Config is data, never a control input: what is in it is checked before use.
	Config ImageConfig
}

// ImageConfig is the part of an image's configuration that a process is made from. Its volumes are no
// part of it: they are ordinary folders of the writable layer.
type ImageConfig struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	StopSignal string
}

// Images is the image room, as far as containers need it. Prepare and Remove are idempotent.
type Images interface {
	// Lookup finds an image by reference or ID; errdefs.ErrNotFound if it is not here.
	Lookup(ctx context.Context, ref string) (Image, error)
	// Prepare makes a writable root filesystem and returns how to mount it. With mappings the owners of
	// its files are translated. limit, where it is not 0, is the most that may be written into it, in bytes.
	Prepare(ctx context.Context, key string, img Image, maps *UserNamespace, limit int64) ([]engine.Mount, error)
	Remove(ctx context.Context, key string) error
	// Fill unpacks a layer of an image, a tar, into the writable layer of a root filesystem that nobody has used.
	Fill(ctx context.Context, key string, layer io.Reader) error
	// View returns the folders of the image's layers, the topmost first, and keeps them until Remove(key).
	View(ctx context.Context, key string, img Image) (layers []string, err error)
	// Usage is what is known of a writable layer's size; it walks through no tree, and waits until ctx ends
	// for a layer that was never measured.
	Usage(ctx context.Context, key string) (DiskUsage, error)
	// ReadFile reads a file of the image, following its links inside it. fs.ErrNotExist if there is none.
	ReadFile(ctx context.Context, img Image, path string, limit int64) ([]byte, error)
	// Keys lists the snapshots that exist.
	Keys(ctx context.Context) ([]string, error)
}

// AttachRequest asks for a pod's addresses.
type AttachRequest struct {
	SandboxID, NetNS              string
	PodNamespace, PodName, PodUID string
	Ports                         []PortMapping
	Bandwidth                     Bandwidth
	IPs                           []netip.Addr // the addresses that the pod wants; none lets the network choose
	DNS                           *DNS         // nil is the node's
}

// Resource is a thing in the kernel or on disk that belongs to a sandbox.
type Resource struct {
	Kind  string `json:"kind"` // netns, link, address, rule, shim, …
	Name  string `json:"name"`
	Owner string `json:"owner"` // sandbox or container ID, empty if it can't be told
}

// Network is the network room. Every method is idempotent.
type Network interface {
	// CreateNetNS makes and pins a namespace; sysctls are those that begin with "net.".
	CreateNetNS(ctx context.Context, id string, sysctls map[string]string) (path string, err error)
	// AdoptNetNS is CreateNetNS for a namespace that is there, at the path from.
	AdoptNetNS(ctx context.Context, id, from string) (path string, err error)
	RemoveNetNS(ctx context.Context, id string) error
	Attach(ctx context.Context, r AttachRequest) ([]netip.Addr, error)
	Detach(ctx context.Context, id string) error
	// Usage counts what went through the default interfaces of sandboxes, by ID, as far as that can be told of all at once.
	Usage(ctx context.Context) (map[string]InterfaceUsage, error)
	Inventory(ctx context.Context) ([]Resource, error)
	// Repair removes everything whose owner is not alive, or can't be told.
	Repair(ctx context.Context, live func(id string) bool) error
}

// Placement says which shim may keep a sandbox.
type Placement struct {
	SandboxID string
	Tenant    string // sandboxes of two tenants never share a shim
	Handler   string
	Bundle    string // the sandbox's, for a handler whose shim is another project's
}

// Shims starts, finds and ends shims.
type Shims interface {
	// Acquire joins or starts the shim for a sandbox and remembers the choice. Idempotent.
	Acquire(ctx context.Context, p Placement) (Shim, error)
	// Lookup returns the shim that keeps a sandbox.
	Lookup(sandboxID string) (Shim, bool)
	// Release gives the sandbox's place up; the last one out ends the shim. Idempotent.
	Release(ctx context.Context, sandboxID string) error
	// Events carries what shims report. The channel is closed when the manager is.
	Events() <-chan ShimEvent
	Inventory(ctx context.Context) ([]Resource, error)
}

// ShimEventKind says what a shim reported, or what was noticed about it.
type ShimEventKind string

const (
	ShimExit     ShimEventKind = "exit"     // a container's init has ended
	ShimOOM      ShimEventKind = "oom"      // the kernel killed a process of the container for memory
	ShimReplaced ShimEventKind = "replaced" // a successor keeps the sandboxes now
	ShimLost     ShimEventKind = "lost"     // there is no successor: its containers are gone
)

// ShimEvent is one report. Exit is set for ShimExit, of it the Reason for ShimOOM where the victim is known, Sandboxes for ShimReplaced and ShimLost.
type ShimEvent struct {
	Kind        ShimEventKind
	ContainerID string
	Exit        Exit
	Sandboxes   []string
}

// Exit is how a container ended.
type Exit struct {
	Code    int       `json:"code"`
	At      time.Time `json:"at"`
	Unknown bool      `json:"unknown,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	// OOMKilled is set if the kernel killed a process of the container for memory.
	OOMKilled bool `json:"oomKilled,omitempty"`
}

// ShimSandbox asks a shim to keep a pod's namespaces.
type ShimSandbox struct {
	ID, NetNS string
	IPC, UTS  bool
	Hostname  string
	// Sysctls are those of the IPC and UTS namespaces.
	Sysctls map[string]string
	Bundle  string
	// Cgroup is the pod's.
	Cgroup string
	// Annotations tell a foreign shim what the sandbox is.
	Annotations map[string]string
}

// SandboxPlace is what a shim made of a sandbox.
type SandboxPlace struct {
	IPC, UTS string // paths of the pod's namespaces, "" for the host's
	// Container tells that the shim knows no sandboxes: to it a container has to stand for one.
	Container bool
}

// Task is a container as a shim sees it.
type Task struct {
	ID       string
	Sandbox  string
	Bundle   string
	Rootfs   []engine.Mount
	Terminal bool
	Stdin    bool
	// StdinOnce closes stdin when the first attached client leaves.
	StdinOnce bool
	LogPath   string // absolute; empty drops the output
	// Checkpoint, if any, is the folder of the images that the start restores by the CRIU at the path CRIU.
	Checkpoint, CRIU string
}

// TaskState is a shim's answer for recovery.
type TaskState struct {
	ID      string
	Pid     int
	Running bool // the process has been started and has not ended
	Paused  bool // it runs, and is frozen
	Created bool // it waits for its start
	Exit    Exit // if neither
}

// ExecSyncRequest runs a process to its end and collects its output.
type ExecSyncRequest struct {
	ContainerID string
	Process     *specs.Process
	Timeout     time.Duration // 0 is none
	Limit       int64         // bytes kept of each stream; the rest is thrown away
}

// ExecResult is what came of it.
type ExecResult struct {
	Stdout, Stderr []byte
	ExitCode       int
	// TimedOut is set when Timeout passed and the process was killed.
	TimedOut bool
}

// TerminalSize is in characters.
type TerminalSize struct{ Width, Height uint16 }

// Streams connect a client with a process. Nil ones are not connected. Resize may be nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	TTY      bool
	// InOnce is set by Attach where the process is to see the end of In.
	InOnce bool
	Resize <-chan TerminalSize
}

// Shim is a running shim. Every call has the deadline of its context and nothing else.
type Shim interface {
	CreateSandbox(ctx context.Context, s ShimSandbox) (SandboxPlace, error)
	// RemoveSandbox ends what is left of the sandbox and forgets it. Idempotent.
	RemoveSandbox(ctx context.Context, id string) error

	// RunTask makes a container: when it returns nil, its program has been executed. Of a failed one something may be left,
	// which DeleteTask takes away.
	RunTask(ctx context.Context, t Task) (pid int, err error)
	KillTask(ctx context.Context, id string, signal int) error
	// DeleteTask kills what is left and forgets the container. Idempotent: nil for an unknown one.
	DeleteTask(ctx context.Context, id string) error
	// PauseTask and ResumeTask are idempotent.
	PauseTask(ctx context.Context, id string) error
	ResumeTask(ctx context.Context, id string) error
	// CheckpointTask has the CRIU at the path criu write a container's processes into the folder dir. The container
	// stays as it is: running or paused.
	CheckpointTask(ctx context.Context, id, dir, criu string) error
	// Restores tells whether the shim can make a container of a checkpoint.
	Restores() bool
	UpdateTask(ctx context.Context, id string, r *specs.LinuxResources) error
	// Tasks lists a sandbox's containers.
	Tasks(ctx context.Context, sandboxID string) ([]TaskState, error)
	// TaskTrace returns the shim's own spans of a container's start, if it keeps them.
	TaskTrace(ctx context.Context, id string) ([]trace.Span, error)

	ExecSync(ctx context.Context, r ExecSyncRequest) (ExecResult, error)
	Exec(ctx context.Context, containerID, execID string, p *specs.Process, s Streams) (exitCode int, err error)
	Attach(ctx context.Context, containerID string, s Streams) error
	ReopenLog(ctx context.Context, containerID string) error
}

// Kernel is what the runtime asks of the machine itself: cgroups, processes, mounts. All calls are
// idempotent.
type Kernel interface {
	CreateCgroup(ctx context.Context, path string, r *Resources) error
	CgroupExists(path string) bool
	// SetLimits sets the fields that are not zero; -1 takes a limit away.
	SetLimits(ctx context.Context, path string, r Resources) error
	// Limits reads CPUQuota, CPUPeriod and MemoryLimit; -1 is none, 0 unknown.
	Limits(ctx context.Context, path string) (Resources, error)
	// RemoveCgroup kills what is in the cgroup and below it, waits until that is dead, and removes
	// the directories.
	RemoveCgroup(ctx context.Context, path string) error
	// KillCgroup kills every process in the cgroup and below it and waits until they are dead.
	KillCgroup(ctx context.Context, path string) error
	// Kill sends a signal to a process if it is still in the cgroup: a pid that was used again is not hit.
	Kill(ctx context.Context, pid int, cgroup string, signal int) error
	// Heeds tells whether a signal would reach the process. The kernel drops one that the first process of a
	// PID namespace has no handler for, unless it kills or stops for sure.
	Heeds(pid int, signal int) bool
	// Alive tells whether the process is in the cgroup and has not ended.
	Alive(pid int, cgroup string) bool
	// Meter opens a cgroup for statistics, Pids among them if processes is set; errors wrap fs.ErrNotExist where there
	// is none.
	Meter(cgroup string, processes bool) (Meter, error)
	// Counters reads everything that the kernel counts for a cgroup.
	Counters(ctx context.Context, path string) (*cgroup.Stats, error)
	// ProcessUsage counts what the processes in the cgroup and below it hold.
	ProcessUsage(ctx context.Context, cgroup string) (ProcessUsage, error)
	// NetworkUsage reads the interfaces of a network namespace but the loopback, the default one first.
	// pid, if it is not 0, is a process that may be in it.
	NetworkUsage(ctx context.Context, pid int, netns string) ([]InterfaceUsage, error)
	// Processes lists the pids in the cgroup and below it.
	Processes(ctx context.Context, cgroup string) ([]int, error)
	// Cgroups lists the cgroups directly below path.
	Cgroups(ctx context.Context, path string) ([]string, error)

	// PinNamespaces makes a user namespace and namespaces that belong to it, and binds them to the files
	// "user", "net", "ipc" and "uts" of a folder.
	PinNamespaces(ctx context.Context, p PinnedNamespaces) error
	UnpinNamespaces(ctx context.Context, dir string) error

	MountTmpfs(ctx context.Context, dir string, size int64) error
	// MountLayers mounts the layers of an image, the topmost first, read-only at dir.
	MountLayers(ctx context.Context, dir string, layers []string) error
	Unmount(ctx context.Context, dir string) error
	// Mounts lists the mount points below dir.
	Mounts(ctx context.Context, dir string) ([]string, error)
	// BootID names the present boot.
	BootID() (string, error)
}

// Meter reads a cgroup's counters again and again. Its methods are not called at once.
type Meter interface {
	Read() (Stats, error)
	// Files is how many descriptors it holds between two readings.
	Files() int
	Close()
}

// PinnedNamespaces are those of a pod that has a user namespace.
type PinnedNamespaces struct {
	Dir           string
	User          UserNamespace
	Net, IPC, UTS bool
	Hostname      string
	Sysctls       map[string]string
}

// Stats is what a cgroup uses. Memory is in bytes.
type Stats struct {
	At       time.Time
	CPUNanos uint64 // since the cgroup was made
	// CPURate is nanoseconds of CPU time a second, over the time since the sample before.
	CPURate          uint64
	MemoryUsage      uint64
	MemoryWorkingSet uint64
	MemoryRSS        uint64
	MemoryLimit      uint64 // 0 is none
	PageFaults       uint64
	MajorPageFaults  uint64
	SwapUsage        uint64
	SwapLimit        *uint64 // nil is none
	Pids             uint64  // processes and threads; of pods alone
	// Pressures are nil where the kernel does not tell.
	CPUPressure, MemoryPressure, IOPressure *cgroup.Pressure
}

// ProcessUsage is what processes hold.
type ProcessUsage struct {
	Processes, Threads uint64
	FileDescriptors    uint64
	Sockets            uint64
	OpenFilesLimit     uint64 // of the first process; 0 is unknown
	ThreadsLimit       uint64 // 0 is none
}

// InterfaceUsage counts what went through a network interface since it was made.
type InterfaceUsage struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// LSM are the node's security modules. A node without one answers with empty names and no error where a
// default is asked for.
type LSM interface {
	// AppArmor returns the profile that a process is to be put under; empty is none. A profile by name
	// that can't be had is an error that wraps errdefs.ErrInvalidArgument.
	AppArmor(ctx context.Context, mode ProfileMode, name string) (profile string, err error)
	// SELinux returns the labels of a process and of its files, with a category of their own where the
	// options bring no level. Release gives the category back.
	SELinux(o SELinux) (process, files string, err error)
	Release(process string)
	// Reserve takes the category of a label of an earlier daemon.
	Reserve(process string)
	// Relabel gives a folder and all below it a label for files.
	Relabel(path, files string) error
}

// noLSM is a node without any.
type noLSM struct{}

func (noLSM) AppArmor(_ context.Context, mode ProfileMode, name string) (string, error) {
	if mode == ProfileLocalhost {
		return "", invalid("AppArmor profile %q: this node has no AppArmor", name)
	}
	return "", nil
}
func (noLSM) SELinux(SELinux) (string, string, error) { return "", "", nil }
func (noLSM) Release(string)                          {}
func (noLSM) Reserve(string)                          {}
func (noLSM) Relabel(string, string) error            { return nil }
