package containerd

import (
	"time"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// EventsService is the service's name; its one method is Forward.
const EventsService = "containerd.services.events.ttrpc.v1.Events"

// Topics of events.
const (
	TopicCreate       = "/tasks/create"
	TopicStart        = "/tasks/start"
	TopicExit         = "/tasks/exit"
	TopicDelete       = "/tasks/delete"
	TopicOOM          = "/tasks/oom"
	TopicExecAdded    = "/tasks/exec-added"
	TopicExecStarted  = "/tasks/exec-started"
	TopicPaused       = "/tasks/paused"
	TopicResumed      = "/tasks/resumed"
	TopicCheckpointed = "/tasks/checkpointed"
)

// Event is an event, which its topic and its type's name go with.
type Event interface {
	wire.Message
	// Name is the topic, and the type after "containerd.events.".
	Name() (topic, kind string)
}

type Envelope struct {
	Timestamp time.Time
	Namespace string
	Topic     string
	Event     *wire.Any
}

func (m *Envelope) Fields(f *wire.Fields) {
	f.Time(1, &m.Timestamp)
	f.String(2, &m.Namespace)
	f.String(3, &m.Topic)
	wire.Sub(f, 4, &m.Event)
}

type ForwardRequest struct {
	Envelope *Envelope
}

func (m *ForwardRequest) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Envelope)
}

type TaskCreate struct {
	ContainerID string
	Bundle      string
	Rootfs      []*Mount
	IO          *TaskIO
	Checkpoint  string
	Pid         uint32
}

func (m *TaskCreate) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.String(2, &m.Bundle)
	wire.List(f, 3, &m.Rootfs)
	wire.Sub(f, 4, &m.IO)
	f.String(5, &m.Checkpoint)
	f.Uint32(6, &m.Pid)
}

type TaskStart struct {
	ContainerID string
	Pid         uint32
}

func (m *TaskStart) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.Uint32(2, &m.Pid)
}

type TaskDelete struct {
	ContainerID string
	Pid         uint32
	ExitStatus  uint32
	ExitedAt    time.Time
	ID          string
}

func (m *TaskDelete) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.Uint32(2, &m.Pid)
	f.Uint32(3, &m.ExitStatus)
	f.Time(4, &m.ExitedAt)
	f.String(5, &m.ID)
}

type TaskIO struct {
	Stdin    string
	Stdout   string
	Stderr   string
	Terminal bool
}

func (m *TaskIO) Fields(f *wire.Fields) {
	f.String(1, &m.Stdin)
	f.String(2, &m.Stdout)
	f.String(3, &m.Stderr)
	f.Bool(4, &m.Terminal)
}

type TaskExit struct {
	ContainerID string
	ID          string
	Pid         uint32
	ExitStatus  uint32
	ExitedAt    time.Time
}

func (m *TaskExit) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.String(2, &m.ID)
	f.Uint32(3, &m.Pid)
	f.Uint32(4, &m.ExitStatus)
	f.Time(5, &m.ExitedAt)
}

type TaskOOM struct {
	ContainerID string
	// Victims is Berth's addition, which containerd skips: see Exit.OomVictims of package api.
	Victims []string
}

func (m *TaskOOM) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.Strings(1000, &m.Victims)
}

type TaskExecAdded struct {
	ContainerID string
	ExecID      string
}

func (m *TaskExecAdded) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.String(2, &m.ExecID)
}

type TaskExecStarted struct {
	ContainerID string
	ExecID      string
	Pid         uint32
}

func (m *TaskExecStarted) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.String(2, &m.ExecID)
	f.Uint32(3, &m.Pid)
}

type TaskPaused struct {
	ContainerID string
}

func (m *TaskPaused) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
}

type TaskResumed struct {
	ContainerID string
}

func (m *TaskResumed) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
}

type TaskCheckpointed struct {
	ContainerID string
	Checkpoint  string
}

func (m *TaskCheckpointed) Fields(f *wire.Fields) {
	f.String(1, &m.ContainerID)
	f.String(2, &m.Checkpoint)
}

// Name implements Event.
func (*TaskCreate) Name() (topic, kind string) { return TopicCreate, "TaskCreate" }

// Name implements Event.
func (*TaskStart) Name() (topic, kind string) { return TopicStart, "TaskStart" }

// Name implements Event.
func (*TaskExit) Name() (topic, kind string) { return TopicExit, "TaskExit" }

// Name implements Event.
func (*TaskDelete) Name() (topic, kind string) { return TopicDelete, "TaskDelete" }

// Name implements Event.
func (*TaskOOM) Name() (topic, kind string) { return TopicOOM, "TaskOOM" }

// Name implements Event.
func (*TaskExecAdded) Name() (topic, kind string) { return TopicExecAdded, "TaskExecAdded" }

// Name implements Event.
func (*TaskExecStarted) Name() (topic, kind string) { return TopicExecStarted, "TaskExecStarted" }

// Name implements Event.
func (*TaskPaused) Name() (topic, kind string) { return TopicPaused, "TaskPaused" }

// Name implements Event.
func (*TaskResumed) Name() (topic, kind string) { return TopicResumed, "TaskResumed" }

// Name implements Event.
func (*TaskCheckpointed) Name() (topic, kind string) { return TopicCheckpointed, "TaskCheckpointed" }
