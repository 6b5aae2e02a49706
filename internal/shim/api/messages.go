package api

import (
	"time"

	"github.com/11f9778f/berth/internal/shim/wire"
)

type HelloRequest struct {
	EventsAddress string
}

func (m *HelloRequest) Fields(f *wire.Fields) {
	f.String(1, &m.EventsAddress)
}

type HelloResponse struct {
	Pid           uint32
	Group         string
	Generation    uint32
	StreamAddress string
	Starts        bool
}

func (m *HelloResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
	f.String(2, &m.Group)
	f.Uint32(3, &m.Generation)
	f.String(4, &m.StreamAddress)
	f.Bool(5, &m.Starts)
}

type ListRequest struct {
	SandboxIds []string
}

func (m *ListRequest) Fields(f *wire.Fields) {
	f.Strings(1, &m.SandboxIds)
}

type ListResponse struct {
	Sandboxes  []*Sandbox
	Containers []*Container
}

func (m *ListResponse) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.Sandboxes)
	wire.List(f, 2, &m.Containers)
}

type Sandbox struct {
	Id        string
	State     string
	NetnsPath string
	IpcPath   string
	UtsPath   string
	CreatedAt time.Time
	ExitedAt  time.Time
}

func (m *Sandbox) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.String(2, &m.State)
	f.String(3, &m.NetnsPath)
	f.String(4, &m.IpcPath)
	f.String(5, &m.UtsPath)
	f.Time(6, &m.CreatedAt)
	f.Time(7, &m.ExitedAt)
}

type Exit struct {
	Code       uint32
	Signal     uint32
	At         time.Time
	Unknown    bool
	Reason     string
	OomKilled  bool
	OomVictims []string
}

func (m *Exit) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Code)
	f.Uint32(2, &m.Signal)
	f.Time(3, &m.At)
	f.Bool(4, &m.Unknown)
	f.String(5, &m.Reason)
	f.Bool(6, &m.OomKilled)
	f.Strings(7, &m.OomVictims)
}

type Container struct {
	Id        string
	SandboxId string
	Bundle    string
	Pid       uint32
	Status    Status
	Exit      *Exit
	LogPath   string
	Terminal  bool
	CreatedAt time.Time
	StartedAt time.Time
	Adopted   bool
	Cgroup    string
}

func (m *Container) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.String(2, &m.SandboxId)
	f.String(3, &m.Bundle)
	f.Uint32(4, &m.Pid)
	wire.Int32(f, 5, &m.Status)
	wire.Sub(f, 6, &m.Exit)
	f.String(7, &m.LogPath)
	f.Bool(8, &m.Terminal)
	f.Time(9, &m.CreatedAt)
	f.Time(10, &m.StartedAt)
	f.Bool(11, &m.Adopted)
	f.String(12, &m.Cgroup)
}

type CreateOptions struct {
	SandboxId string
	StdinOnce bool
	Foreign   bool
	Criu      string
	Start     bool
}

func (m *CreateOptions) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxId)
	f.Bool(2, &m.StdinOnce)
	f.Bool(3, &m.Foreign)
	f.String(6, &m.Criu)
	f.Bool(7, &m.Start)
}

type CheckpointOptions struct {
	Criu string
}

func (m *CheckpointOptions) Fields(f *wire.Fields) {
	f.String(1, &m.Criu)
}

type SandboxOptions struct {
	Hostname     string
	Sysctls      map[string]string
	HostIpc      bool
	HostUts      bool
	CgroupParent string
}

func (m *SandboxOptions) Fields(f *wire.Fields) {
	f.String(1, &m.Hostname)
	f.Map(2, &m.Sysctls)
	f.Bool(3, &m.HostIpc)
	f.Bool(4, &m.HostUts)
	f.String(5, &m.CgroupParent)
}

type ReopenLogRequest struct {
	Id string
}

func (m *ReopenLogRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
}

type ExecSyncRequest struct {
	Id        string
	Process   []byte
	TimeoutNs int64
	Limit     int64
}

func (m *ExecSyncRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.Bytes(2, &m.Process)
	f.Int64(3, &m.TimeoutNs)
	f.Int64(4, &m.Limit)
}

type ExecSyncResponse struct {
	Stdout     []byte
	Stderr     []byte
	Exit       *Exit
	TimedOut   bool
	Truncated  bool
	StdoutFile string
	StderrFile string
}

func (m *ExecSyncResponse) Fields(f *wire.Fields) {
	f.Bytes(1, &m.Stdout)
	f.Bytes(2, &m.Stderr)
	wire.Sub(f, 3, &m.Exit)
	f.Bool(4, &m.TimedOut)
	f.Bool(5, &m.Truncated)
	f.String(6, &m.StdoutFile)
	f.String(7, &m.StderrFile)
}

type ExecRequest struct {
	Id      string
	ExecId  string
	Process []byte
	Stdin   bool
	Stdout  bool
	Stderr  bool
}

func (m *ExecRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.String(2, &m.ExecId)
	f.Bytes(3, &m.Process)
	f.Bool(4, &m.Stdin)
	f.Bool(5, &m.Stdout)
	f.Bool(6, &m.Stderr)
}

type AttachRequest struct {
	Id     string
	Stdin  bool
	Stdout bool
	Stderr bool
}

func (m *AttachRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.Bool(2, &m.Stdin)
	f.Bool(3, &m.Stdout)
	f.Bool(4, &m.Stderr)
}

type StreamResponse struct {
	Address string
	Token   string
}

func (m *StreamResponse) Fields(f *wire.Fields) {
	f.String(1, &m.Address)
	f.String(2, &m.Token)
}

type StatsRequest struct {
	Ids []string
}

func (m *StatsRequest) Fields(f *wire.Fields) {
	f.Strings(1, &m.Ids)
}

type StatsResponse struct {
	Containers []*ContainerStats
}

func (m *StatsResponse) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.Containers)
}

type ContainerStats struct {
	Id                    string
	At                    time.Time
	CpuUsageNs            uint64
	CpuUserNs             uint64
	CpuSystemNs           uint64
	CpuPeriods            uint64
	CpuThrottledPeriods   uint64
	CpuThrottledNs        uint64
	MemoryUsage           uint64
	MemoryWorkingSet      uint64
	MemoryRss             uint64
	MemoryLimit           uint64
	MemoryPageFaults      uint64
	MemoryMajorPageFaults uint64
	MemorySwap            uint64
	OomKills              uint64
	Pids                  uint64
	PidsLimit             uint64
	IoReadBytes           uint64
	IoWriteBytes          uint64
}

func (m *ContainerStats) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	f.Time(2, &m.At)
	f.Uint64(3, &m.CpuUsageNs)
	f.Uint64(4, &m.CpuUserNs)
	f.Uint64(5, &m.CpuSystemNs)
	f.Uint64(6, &m.CpuPeriods)
	f.Uint64(7, &m.CpuThrottledPeriods)
	f.Uint64(8, &m.CpuThrottledNs)
	f.Uint64(9, &m.MemoryUsage)
	f.Uint64(10, &m.MemoryWorkingSet)
	f.Uint64(11, &m.MemoryRss)
	f.Uint64(12, &m.MemoryLimit)
	f.Uint64(13, &m.MemoryPageFaults)
	f.Uint64(14, &m.MemoryMajorPageFaults)
	f.Uint64(15, &m.MemorySwap)
	f.Uint64(16, &m.OomKills)
	f.Uint64(17, &m.Pids)
	f.Uint64(18, &m.PidsLimit)
	f.Uint64(19, &m.IoReadBytes)
	f.Uint64(20, &m.IoWriteBytes)
}

type EndRequest struct {
	Id   string
	Exit *Exit
}

func (m *EndRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
	wire.Sub(f, 2, &m.Exit)
}

type UpgradeRequest struct {
	Binary string
}

func (m *UpgradeRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Binary)
}

type TraceRequest struct {
	Id string
}

func (m *TraceRequest) Fields(f *wire.Fields) {
	f.String(1, &m.Id)
}

type TraceResponse struct {
	Spans []*Span
}

func (m *TraceResponse) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.Spans)
}

type Span struct {
	Name       string
	StartNs    int64
	DurationNs int64
}

func (m *Span) Fields(f *wire.Fields) {
	f.String(1, &m.Name)
	f.Int64(2, &m.StartNs)
	f.Int64(3, &m.DurationNs)
}
