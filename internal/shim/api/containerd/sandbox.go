package containerd

import (
	"time"

	"github.com/11f9778f/berth/internal/shim/wire"
)

// SandboxService is the service's name.
const SandboxService = "containerd.runtime.sandbox.v1.Sandbox"

type CreateSandboxRequest struct {
	SandboxID   string
	BundlePath  string
	Rootfs      []*Mount
	Options     *wire.Any
	NetnsPath   string
	Annotations map[string]string
}

func (m *CreateSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
	f.String(2, &m.BundlePath)
	wire.List(f, 3, &m.Rootfs)
	wire.Sub(f, 4, &m.Options)
	f.String(5, &m.NetnsPath)
	f.Map(6, &m.Annotations)
}

type CreateSandboxResponse struct{}

func (*CreateSandboxResponse) Fields(*wire.Fields) {}

type StartSandboxRequest struct {
	SandboxID string
}

func (m *StartSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type StartSandboxResponse struct {
	Pid       uint32
	CreatedAt time.Time
	Spec      *wire.Any
}

func (m *StartSandboxResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.Pid)
	f.Time(2, &m.CreatedAt)
	wire.Sub(f, 3, &m.Spec)
}

type PlatformRequest struct {
	SandboxID string
}

func (m *PlatformRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type PlatformResponse struct {
	Platform *Platform
}

func (m *PlatformResponse) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Platform)
}

type StopSandboxRequest struct {
	SandboxID   string
	TimeoutSecs uint32
}

func (m *StopSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
	f.Uint32(2, &m.TimeoutSecs)
}

type StopSandboxResponse struct{}

func (*StopSandboxResponse) Fields(*wire.Fields) {}

type UpdateSandboxRequest struct {
	SandboxID string
}

func (m *UpdateSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type WaitSandboxRequest struct {
	SandboxID string
}

func (m *WaitSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type WaitSandboxResponse struct {
	ExitStatus uint32
	ExitedAt   time.Time
}

func (m *WaitSandboxResponse) Fields(f *wire.Fields) {
	f.Uint32(1, &m.ExitStatus)
	f.Time(2, &m.ExitedAt)
}

type UpdateSandboxResponse struct{}

func (*UpdateSandboxResponse) Fields(*wire.Fields) {}

type SandboxStatusRequest struct {
	SandboxID string
	Verbose   bool
}

func (m *SandboxStatusRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
	f.Bool(2, &m.Verbose)
}

type SandboxStatusResponse struct {
	SandboxID string
	Pid       uint32
	State     string
	Info      map[string]string
	CreatedAt time.Time
	ExitedAt  time.Time
	Extra     *wire.Any
}

func (m *SandboxStatusResponse) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
	f.Uint32(2, &m.Pid)
	f.String(3, &m.State)
	f.Map(4, &m.Info)
	f.Time(5, &m.CreatedAt)
	f.Time(6, &m.ExitedAt)
	wire.Sub(f, 7, &m.Extra)
}

type PingRequest struct {
	SandboxID string
}

func (m *PingRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type PingResponse struct{}

func (*PingResponse) Fields(*wire.Fields) {}

type ShutdownSandboxRequest struct {
	SandboxID string
}

func (m *ShutdownSandboxRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type ShutdownSandboxResponse struct{}

func (*ShutdownSandboxResponse) Fields(*wire.Fields) {}

type SandboxMetricsRequest struct {
	SandboxID string
}

func (m *SandboxMetricsRequest) Fields(f *wire.Fields) {
	f.String(1, &m.SandboxID)
}

type SandboxMetricsResponse struct{}

func (*SandboxMetricsResponse) Fields(*wire.Fields) {}

type Platform struct {
	OS           string
	Architecture string
	Variant      string
	OSVersion    string
	OSFeatures   []string
}

func (m *Platform) Fields(f *wire.Fields) {
	f.String(1, &m.OS)
	f.String(2, &m.Architecture)
	f.String(3, &m.Variant)
	f.String(4, &m.OSVersion)
	f.Strings(5, &m.OSFeatures)
}
