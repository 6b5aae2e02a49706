package client

import (
	"log/slog"
	"time"

	"github.com/11f9778f/berth/internal/shim/api/pb"
)

// Config says where shims live and how they are started.
type Config struct {
	// RunDir is the daemon's run directory. Shims live in RunDir/shims/<group>.
	RunDir string
	// Handlers are the runtime handlers by name. "" is the default and is Berth's own shim, found beside
	// this program's binary or in PATH, if the map says nothing else.
	Handlers map[string]Handler
	// GroupSize bounds how many sandboxes one shim keeps (default 72: six dozen, by TestDensity; 1 is the strictest).
	GroupSize int
	// LogSize, in bytes, and LogFiles bound the CRI log of a container: its shim rotates it by itself. 0 leaves that to the
	// caller (ReopenLog). Shims that run already keep what they were started with.
	LogSize  int64
	LogFiles int
	// Spare keeps one blank shim of the default handler running, so that the first pod of a new group
	// does not wait for a process to start.
	Spare bool
	// Linger is how long a group that has become empty waits for another pod of its tenant before its shim
	// ends (default: not at all; never where GroupSize is 1).
	Linger time.Duration
	// CallTimeout is the deadline of a call whose context has none (default 30 s).
	CallTimeout time.Duration
	// StuckTimeout is how long one of Berth's own shims may give no sign of life, from the first call that it did not
	// answer in time, until it is killed and replaced (default 20 s). Its containers run on.
	StuckTimeout time.Duration
	// Namespace is the containerd namespace that shims are told (default "k8s.io").
	Namespace string
	// Logger receives what an operator should read. Nil discards it.
	Logger *slog.Logger
}

// Handler is one row of the runtime handlers: a shim binary.
type Handler struct {
	// Binary is the path of the shim, or its name in the folder of this program or in PATH.
	Binary string
	// Foreign marks a shim that is not Berth's own: it is started and called by containerd's protocol
	// alone, keeps one sandbox, and can't be replaced when it dies.
	Foreign bool
	// Options are what a foreign shim gets with each container: see NewOptions.
	Options Options
}

// Placement says for whom a shim is wanted.
type Placement struct {
	SandboxID string
	// Tenant separates: sandboxes of two tenants never share a shim.
	Tenant string
	// Handler names a row of Config.Handlers.
	Handler string
	// Bundle is the sandbox's bundle directory, with its config.json; only foreign shims need it.
	Bundle string
}

// EventKind says what an Event is about.
type EventKind int

const (
	// EventExit: a process ended. ExecID is "" for a container's main process.
	EventExit EventKind = iota + 1
	// EventOOM: the kernel's OOM killer ended a process of the container.
	EventOOM
	// EventStarted, EventPaused, EventResumed: what the names say.
	EventStarted
	EventPaused
	EventResumed
	// EventShimLost: the shim of Group has died. Its containers run on. For a foreign shim nothing follows;
	// for Berth's own EventShimReplaced does.
	EventShimLost
	// EventShimReplaced: a successor has taken over Group. Exits that happened meanwhile follow as EventExit.
	EventShimReplaced
	// EventShimStuck: the shim of Group did not answer a call in time. EventShimAnswers ends that state.
	EventShimStuck
	EventShimAnswers
)

// Event is one thing that happened in or to a shim. An event may arrive twice (a shim that was cut off
// from the daemon sends again what was not acknowledged): whoever consumes events must bear that.
type Event struct {
	Kind        EventKind
	Time        time.Time
	Group       string
	ContainerID string
	ExecID      string
	Pid         int
	// Exit is set for EventExit.
	Exit *pb.Exit
	// Victims are the processes that the OOM killer has ended, for EventOOM, as far as the shim knows.
	Victims []string
	// Err is set for EventShimLost, if a successor could not be started.
	Err error
}

// GroupInfo is one shim in the inventory.
type GroupInfo struct {
	ID, Tenant, Handler string
	Pid                 int
	Alive, Stuck        bool
	Dir                 string
	// Sandboxes are the ids assigned to the group.
	Sandboxes []string
}

// Inventory is everything that the Manager keeps on disk and in the kernel.
type Inventory struct {
	Groups []GroupInfo
	// Unowned are paths below RunDir/shims that belong to no group.
	Unowned []string
}
