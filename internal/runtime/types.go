package runtime

import (
	"net/netip"
	"time"
)

// NamespaceMode says whose namespace a pod's containers use.
type NamespaceMode int

const (
	// NamespacePod shares one namespace between the pod's containers.
	NamespacePod NamespaceMode = iota
	// NamespaceContainer gives every container its own.
	NamespaceContainer
	// NamespaceNode uses the host's.
	NamespaceNode
	// NamespaceTarget joins another container's; for a container's PID namespace only.
	NamespaceTarget
)

// Namespaces is the choice for a pod. IPC also covers /dev/shm.
type Namespaces struct {
	Network NamespaceMode `json:"network"` // Pod or Node
	PID     NamespaceMode `json:"pid"`     // Pod, Container or Node
	IPC     NamespaceMode `json:"ipc"`     // Pod or Node
}

// UserNamespace maps the users and groups of a pod to those of the host.
type UserNamespace struct {
	UIDs []IDMapping `json:"uids"`
	GIDs []IDMapping `json:"gids"`
}

// SandboxSpec is what a pod sandbox is made from. Namespace, Name, UID and Attempt are its identity:
// a second RunSandbox with the same four joins the first.
type SandboxSpec struct {
	Name      string `json:"name"`
	UID       string `json:"uid"`
	Namespace string `json:"namespace"`
	Attempt   uint32 `json:"attempt"`

	// Hostname is the pod's; empty means the node's.
	Hostname string `json:"hostname,omitempty"`
	// LogDir is the folder that ContainerSpec.LogPath is relative to.
	LogDir string `json:"logDir,omitempty"`
	// DNS becomes /etc/resolv.conf; nil means a copy of the node's.
	DNS       *DNS          `json:"dns,omitempty"`
	Ports     []PortMapping `json:"ports,omitempty"`
	Bandwidth Bandwidth     `json:"bandwidth,omitzero"`
	IPs       []netip.Addr  `json:"ips,omitempty"` // the addresses that the pod wants
	// WritableLimit is what each container may write into its root filesystem at most, in bytes; 0 is what the node says.
	WritableLimit int64             `json:"writableLimit,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
	// CgroupParent is the pod's cgroup; empty means <Config.CgroupParent>/pod<UID>.
	CgroupParent string     `json:"cgroupParent,omitempty"`
	Namespaces   Namespaces `json:"namespaces"`
	// User is the pod's user namespace; nil is the host's.
	User *UserNamespace `json:"user,omitempty"`
	// Sysctls are set in the pod's own namespaces.
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	Privileged bool              `json:"privileged,omitempty"`
	// SELinux is what containers get that bring no options of their own.
	SELinux *SELinux `json:"seLinux,omitempty"`
	// Handler is the RuntimeClass handler; empty is the node's own.
	Handler string `json:"handler,omitempty"`
	// Resources are the limits of the pod's cgroup. They are set unless the cgroup was there before the pod: then they are
	// only kept, and told to a foreign shim.
	Resources *Resources `json:"resources,omitempty"`
}

// DNS is the content of a resolv.conf.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// PortMapping publishes a port of the pod on the host.
type PortMapping struct {
	Protocol      string `json:"protocol"` // "tcp", "udp" or "sctp"
	ContainerPort int32  `json:"containerPort"`
	HostPort      int32  `json:"hostPort"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Bandwidth limits what a pod receives and sends, in bits a second; 0 is no limit.
type Bandwidth struct {
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// ContainerSpec is what a container is made from. Name and Attempt are its identity in its sandbox.
type ContainerSpec struct {
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`
	// Image is a reference or an image ID that the store knows. UserImage is what the user wrote.
	Image     string `json:"image"`
	UserImage string `json:"userImage,omitempty"`

	// Checkpoint is the absolute path of a checkpoint's archive that the container is to become, or an image that holds
	// one. Image may be empty then: the checkpoint names it.
	Checkpoint CheckpointSource `json:"checkpoint,omitzero"`

	Command    []string `json:"command,omitempty"` // replaces the image's entry point
	Args       []string `json:"args,omitempty"`    // replaces the image's command
	WorkingDir string   `json:"workingDir,omitempty"`
	Env        []EnvVar `json:"env,omitempty"`
	Mounts     []Mount  `json:"mounts,omitempty"`
	Devices    []Device `json:"devices,omitempty"`
	// CDIDevices are fully qualified names of the Container Device Interface, "vendor.com/class=name".
	CDIDevices []string `json:"cdiDevices,omitempty"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// LogPath is relative to the sandbox's LogDir; empty means that output is dropped.
	LogPath   string `json:"logPath,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	TTY       bool   `json:"tty,omitempty"`
	// StopSignal, such as "SIGTERM", goes before the image's.
	StopSignal string `json:"stopSignal,omitempty"`

	// PID is the container's own choice: Pod is what the sandbox says, Container a namespace of its own,
	// Target that of the container PIDTarget of the same sandbox.
	PID       NamespaceMode `json:"pid,omitempty"`
	PIDTarget string        `json:"pidTarget,omitempty"`

	Resources Resources `json:"resources"`
	Security  Security  `json:"security"`
}

// CheckpointSource is where a checkpoint is: one of both.
type CheckpointSource struct {
	Path  string `json:"path,omitempty"`
	Image string `json:"image,omitempty"`
}

// EnvVar is one variable; the value is bytes that need not be UTF-8.
type EnvVar struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Propagation is how mounts travel between host and container.
type Propagation int

const (
	PropagationPrivate Propagation = iota
	PropagationHostToContainer
	PropagationBidirectional
)

// Mount binds a host path, or the files of an image, into the container.
type Mount struct {
	ContainerPath     string      `json:"containerPath"`
	HostPath          string      `json:"hostPath,omitempty"`
	ReadOnly          bool        `json:"readOnly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	Propagation       Propagation `json:"propagation,omitempty"`
	// Relabel gives the source the container's SELinux label, where the node has SELinux.
	Relabel bool `json:"relabel,omitempty"`
	// Options restrict what can be done in the mount: see mountOptions.
	Options []string `json:"options,omitempty"`
	// UIDMap and GIDMap translate owners, as an idmapped mount does.
	UIDMap []IDMapping `json:"uidMap,omitempty"`
	GIDMap []IDMapping `json:"gidMap,omitempty"`
	// Image is set instead of HostPath for an image's files, which are read-only.
	Image *ImageVolume `json:"image,omitempty"`
}

// ImageVolume says which files of which image.
type ImageVolume struct {
	Image   string `json:"image"`
	SubPath string `json:"subPath,omitempty"` // relative; empty is all of it
	// Ref names the image by digest once the container has been created.
	Ref string `json:"ref,omitempty"`
}

// IDMapping is a range of user or group IDs of a user namespace.
type IDMapping struct {
	ContainerID uint32 `json:"containerID"`
	HostID      uint32 `json:"hostID"`
	Length      uint32 `json:"length"`
}

// Device makes a host device visible in the container; Permissions is a subset of "rwm".
type Device struct {
	ContainerPath string `json:"containerPath"`
	HostPath      string `json:"hostPath"`
	Permissions   string `json:"permissions"`
}

// Resources are the limits of a cgroup; zero means "not set". The fields and units are those of the
// CRI's LinuxContainerResources: microseconds for the CPU period and quota, bytes for memory.
type Resources struct {
	CPUPeriod   int64  `json:"cpuPeriod,omitempty"`
	CPUQuota    int64  `json:"cpuQuota,omitempty"`
	CPUShares   int64  `json:"cpuShares,omitempty"`
	MemoryLimit int64  `json:"memoryLimit,omitempty"`
	MemorySwap  int64  `json:"memorySwap,omitempty"`
	OOMScoreAdj int64  `json:"oomScoreAdj,omitempty"`
	CpusetCpus  string `json:"cpusetCpus,omitempty"`
	CpusetMems  string `json:"cpusetMems,omitempty"`
	// Hugepages maps a page size ("2MB") to a limit in bytes.
	Hugepages map[string]uint64 `json:"hugepages,omitempty"`
	Unified   map[string]string `json:"unified,omitempty"`
}

// SeccompMode chooses a seccomp profile.
type SeccompMode int

const (
	SeccompRuntimeDefault SeccompMode = iota
	SeccompUnconfined
	SeccompLocalhost // a file on the node, Security.SeccompProfile
)

// Security is what a container may do.
type Security struct {
	Privileged     bool `json:"privileged,omitempty"`
	ReadonlyRootfs bool `json:"readonlyRootfs,omitempty"`
	NoNewPrivs     bool `json:"noNewPrivs,omitempty"`

	// RunAsUser, else RunAsUsername, else the image's user.
	RunAsUser     *int64 `json:"runAsUser,omitempty"`
	RunAsGroup    *int64 `json:"runAsGroup,omitempty"`
	RunAsUsername string `json:"runAsUsername,omitempty"`
	// SupplementalGroups are added to those of the image's /etc/group; StrictGroups leaves those out.
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`
	StrictGroups       bool    `json:"strictGroups,omitempty"`

	AddCapabilities     []string `json:"addCapabilities,omitempty"`
	DropCapabilities    []string `json:"dropCapabilities,omitempty"`
	AmbientCapabilities []string `json:"ambientCapabilities,omitempty"`

	// MaskedPaths and ReadonlyPaths replace the default lists if they are not empty.
	MaskedPaths   []string `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string `json:"readonlyPaths,omitempty"`

	Seccomp        SeccompMode `json:"seccomp"`
	SeccompProfile string      `json:"seccompProfile,omitempty"`

	// AppArmor and SELinux are of use where the node has them.
	AppArmor        ProfileMode `json:"appArmor,omitempty"`
	AppArmorProfile string      `json:"appArmorProfile,omitempty"`
	SELinux         *SELinux    `json:"seLinux,omitempty"`
}

// ProfileMode chooses an AppArmor profile.
type ProfileMode int

const (
	ProfileDefault ProfileMode = iota
	ProfileUnconfined
	ProfileLocalhost // one that is loaded on the node, by name
)

// SELinux are the parts of a label; empty ones are the node's default.
type SELinux struct {
	User  string `json:"user,omitempty"`
	Role  string `json:"role,omitempty"`
	Type  string `json:"type,omitempty"`
	Level string `json:"level,omitempty"`
}

// SandboxState is where a sandbox is in its life.
type SandboxState string

const (
	SandboxCreating SandboxState = "creating" // RunSandbox is at work; not listed
	SandboxReady    SandboxState = "ready"
	SandboxStopped  SandboxState = "stopped"
	SandboxRemoving SandboxState = "removing" // being undone; not listed
)

// SandboxStatus is a copy; the caller may keep and change it, but not what its Spec points to.
type SandboxStatus struct {
	ID        string       `json:"id"`
	Spec      SandboxSpec  `json:"spec"`
	State     SandboxState `json:"state"`
	CreatedAt time.Time    `json:"createdAt"`
	IPs       []netip.Addr `json:"ips,omitempty"`
	// NetNS, IPC, UTS and UserNS are paths of the pod's pinned namespaces, empty where the host's are used.
	NetNS  string `json:"netns,omitempty"`
	UserNS string `json:"userns,omitempty"`
	IPC    string `json:"ipc,omitempty"`
	UTS    string `json:"uts,omitempty"`
	// Pid is that of the process that keeps a PID namespace which the pod's containers share, else 0.
	Pid int `json:"pid,omitempty"`
	// CgroupPath is the pod's cgroup below the hierarchies' roots.
	CgroupPath string `json:"cgroupPath"`
	// Foreign and SystemdCgroup are the handler's, as they were when the sandbox was made: see Handler.
	Foreign       bool `json:"foreign,omitempty"`
	SystemdCgroup bool `json:"systemdCgroup,omitempty"`
	// SELinuxLabel and SELinuxMount are the pod's labels where the node has SELinux.
	SELinuxLabel string `json:"seLinuxLabel,omitempty"`
	SELinuxMount string `json:"seLinuxMount,omitempty"`
}

// ContainerState is where a container is in its life.
type ContainerState string

const (
	ContainerCreating ContainerState = "creating" // not listed
	ContainerCreated  ContainerState = "created"
	ContainerRunning  ContainerState = "running"
	ContainerExited   ContainerState = "exited"
	ContainerRemoving ContainerState = "removing" // not listed
)

// ContainerStatus is a copy, as SandboxStatus is.
type ContainerStatus struct {
	ID         string         `json:"id"`
	SandboxID  string         `json:"sandboxID"`
	Spec       ContainerSpec  `json:"spec"`
	State      ContainerState `json:"state"`
	CreatedAt  time.Time      `json:"createdAt"`
	StartedAt  time.Time      `json:"startedAt,omitzero"`
	FinishedAt time.Time      `json:"finishedAt,omitzero"`
	ExitCode   int            `json:"exitCode"`
	// Reason is one CamelCase word (Completed, Error, OOMKilled, StartError,
	// ContainerStatusUnknown), Message a sentence.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// ImageID is the image's digest, ImageRef a reference by digest where one is known.
	ImageID  string `json:"imageID"`
	ImageRef string `json:"imageRef"`
	// LogPath is absolute.
	LogPath string `json:"logPath,omitempty"`
	// User is who the process runs as.
	User User `json:"user"`
	// Pid is the init process's on the host, 0 if none runs.
	Pid        int    `json:"pid,omitempty"`
	CgroupPath string `json:"cgroupPath"`
	StopSignal string `json:"stopSignal"`
}

// User is a numeric identity.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// EventKind says what happened.
type EventKind string

const (
	SandboxStarted   EventKind = "SandboxStarted"
	SandboxStoppedEv EventKind = "SandboxStopped"
	SandboxRemoved   EventKind = "SandboxRemoved"

	ContainerCreatedEv EventKind = "ContainerCreated"
	ContainerStarted   EventKind = "ContainerStarted"
	ContainerStopped   EventKind = "ContainerStopped"
	ContainerOOM       EventKind = "ContainerOOM"
	ContainerRemoved   EventKind = "ContainerRemoved"
)

// Event is one entry of the node's event log. Seq grows by one from event to event, and from one
// daemon to the next by a leap.
type Event struct {
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"`
	Kind        EventKind `json:"kind"`
	SandboxID   string    `json:"sandboxID"`
	ContainerID string    `json:"containerID,omitempty"`
	// Sandbox and Containers are the pod as it was right after the event.
	Sandbox    SandboxStatus     `json:"sandbox"`
	Containers []ContainerStatus `json:"containers,omitempty"`
}

// DiskUsage is what a writable layer takes.
type DiskUsage struct {
	Bytes  uint64    `json:"bytes"`
	Inodes uint64    `json:"inodes"`
	Limit  uint64    `json:"limit,omitempty"` // the most that it may take, in bytes; 0 is no limit
	At     time.Time `json:"at,omitzero"`     // when it was measured
}
