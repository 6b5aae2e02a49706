package containerd

import (
	"time"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// Names of services. The messages of Task v2, which containerd before 2.0 speaks, and of v3 are the same on the wire.
const (
	TaskService   = "containerd.task.v3.Task"
	TaskServiceV2 = "containerd.task.v2.Task"
)

// Status is what a task does.
type Status int32

// The statuses of a task.
const (
	StatusUnknown Status = iota
	StatusCreated
	StatusRunning
	StatusStopped
	StatusPaused
	StatusPausing
)

type CreateTaskRequest struct {
	ID               string
	Bundle           string
	Rootfs           []*Mount
	Terminal         bool
	Stdin            string
	Stdout           string
	Stderr           string
	Checkpoint       string
	ParentCheckpoint string
	Options          *wire.Any
}

func (m *CreateTaskRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.Bundle)
	wire.List(f, 3, &m.Rootfs)
	f.Bool(4, &m.Terminal)
	f.String(5, &m.Stdin)
	f.String(6, &m.Stdout)
	f.String(7, &m.Stderr)
	f.String(8, &m.Checkpoint)
	f.String(9, &m.ParentCheckpoint)
	wire.Sub(f, 10, &m.Options)
}

type CreateTaskResponse struct {
	Pid uint32
}

func (m *CreateTaskResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
}

type DeleteRequest struct {
	ID     string
	ExecID string
}

func (m *DeleteRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
}

type DeleteResponse struct {
	Pid        uint32
	ExitStatus uint32
	ExitedAt   time.Time
}

func (m *DeleteResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
	f.Uint32(2, &m.ExitStatus)
	f.Time(3, &m.ExitedAt)
}

type ExecProcessRequest struct {
	ID       string
	ExecID   string
	Terminal bool
	Stdin    string
	Stdout   string
	Stderr   string
	Spec     *wire.Any
}

func (m *ExecProcessRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
	f.Bool(3, &m.Terminal)
	f.String(4, &m.Stdin)
	f.String(5, &m.Stdout)
	f.String(6, &m.Stderr)
	wire.Sub(f, 7, &m.Spec)
}

type ResizePtyRequest struct {
	ID     string
	ExecID string
	Width  uint32
	Height uint32
}

func (m *ResizePtyRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
	f.Uint32(3, &m.Width)
	f.Uint32(4, &m.Height)
}

type StateRequest struct {
	ID     string
	ExecID string
}

func (m *StateRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
}

type StateResponse struct {
	ID         string
	Bundle     string
	Pid        uint32
	Status     Status
	Stdin      string
	Stdout     string
	Stderr     string
	Terminal   bool
	ExitStatus uint32
	ExitedAt   time.Time
	ExecID     string
}

func (m *StateResponse) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.Bundle)
	f.Uint32(3, &m.Pid)
	wire.Int32(f, 4, &m.Status)
	f.String(5, &m.Stdin)
	f.String(6, &m.Stdout)
	f.String(7, &m.Stderr)
	f.Bool(8, &m.Terminal)
	f.Uint32(9, &m.ExitStatus)
	f.Time(10, &m.ExitedAt)
	f.String(11, &m.ExecID)
}

type KillRequest struct {
	ID     string
	ExecID string
	Signal uint32
	All    bool
}

func (m *KillRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
	f.Uint32(3, &m.Signal)
	f.Bool(4, &m.All)
}

type CloseIORequest struct {
	ID     string
	ExecID string
	Stdin  bool
}

func (m *CloseIORequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
	f.Bool(3, &m.Stdin)
}

type PidsRequest struct {
	ID string
}

func (m *PidsRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
}

type PidsResponse struct {
	Processes []*ProcessInfo
}

func (m *PidsResponse) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.Processes)
}

type CheckpointTaskRequest struct {
	ID      string
	Path    string
	Options *wire.Any
}

func (m *CheckpointTaskRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.Path)
	wire.Sub(f, 3, &m.Options)
}

type UpdateTaskRequest struct {
	ID          string
	Resources   *wire.Any
	Annotations map[string]string
}

func (m *UpdateTaskRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	wire.Sub(f, 2, &m.Resources)
	f.Map(3, &m.Annotations)
}

type StartRequest struct {
	ID     string
	ExecID string
}

func (m *StartRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
}

type StartResponse struct {
	Pid uint32
}

func (m *StartResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
}

type WaitRequest struct {
	ID     string
	ExecID string
}

func (m *WaitRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.String(2, &m.ExecID)
}

type WaitResponse struct {
	ExitStatus uint32
	ExitedAt   time.Time
}

func (m *WaitResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.ExitStatus)
	f.Time(2, &m.ExitedAt)
}

type StatsRequest struct {
	ID string
}

func (m *StatsRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
}

type StatsResponse struct {
	Stats *wire.Any
}

func (m *StatsResponse) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Stats)
}

type ConnectRequest struct {
	ID string
}

func (m *ConnectRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
}

type ConnectResponse struct {
	ShimPid uint32
	TaskPid uint32
	Version string
}

func (m *ConnectResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.ShimPid)
	f.Uint32(2, &m.TaskPid)
	f.String(3, &m.Version)
}

type ShutdownRequest struct {
	ID  string
	Now bool
}

func (m *ShutdownRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
	f.Bool(2, &m.Now)
}

type PauseRequest struct {
	ID string
}

func (m *PauseRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
}

type ResumeRequest struct {
	ID string
}

func (m *ResumeRequest) Fields(f *wire.Fields) {
	f.String(1, &m.ID)
}

type Mount struct {
	Type    string
	Source  string
	Target  string
	Options []string
}

func (m *Mount) Fields(f *wire.Fields) {
	f.String(1, &m.Type)
	f.String(2, &m.Source)
	f.String(3, &m.Target)
	f.Strings(4, &m.Options)
}

type ProcessInfo struct {
	Pid  uint32
	Info *wire.Any
}

func (m *ProcessInfo) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
	wire.Sub(f, 2, &m.Info)
}
