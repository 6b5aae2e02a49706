package containerd

import (
	"github.com/11f9778f/berth/internal/shim/wire"
)

type RuncOptions struct {
	NoPivotRoot    bool
	NoNewKeyring   bool
	ShimCgroup     string
	IoUid          uint32
	IoGid          uint32
	BinaryName     string
	Root           string
	SystemdCgroup  bool
	CRIUImagePath  string
	CRIUWorkPath   string
	TaskAPIAddress string
	TaskAPIVersion uint32
}

func (m *RuncOptions) Fields(f *wire.Fields) {
	f.Bool(1, &m.NoPivotRoot)
	f.Bool(2, &m.NoNewKeyring)
	f.String(3, &m.ShimCgroup)
	f.Uint32(4, &m.IoUid)
	f.Uint32(5, &m.IoGid)
	f.String(6, &m.BinaryName)
	f.String(7, &m.Root)
	f.Bool(9, &m.SystemdCgroup)
	f.String(10, &m.CRIUImagePath)
	f.String(11, &m.CRIUWorkPath)
	f.String(12, &m.TaskAPIAddress)
	f.Uint32(13, &m.TaskAPIVersion)
}

type RuncCheckpointOptions struct {
	Exit                bool
	OpenTCP             bool
	ExternalUnixSockets bool
	Terminal            bool
	FileLocks           bool
	EmptyNamespaces     []string
	CgroupsMode         string
	ImagePath           string
	WorkPath            string
	ParentPath          string
}

func (m *RuncCheckpointOptions) Fields(f *wire.Fields) {
	f.Bool(1, &m.Exit)
	f.Bool(2, &m.OpenTCP)
	f.Bool(3, &m.ExternalUnixSockets)
	f.Bool(4, &m.Terminal)
	f.Bool(5, &m.FileLocks)
	f.Strings(6, &m.EmptyNamespaces)
	f.String(7, &m.CgroupsMode)
	f.String(8, &m.ImagePath)
	f.String(9, &m.WorkPath)
	f.String(10, &m.ParentPath)
}

type GenericOptions struct {
	TypeURL    string
	ConfigPath string
	ConfigBody []byte
}

func (m *GenericOptions) Fields(f *wire.Fields) {
	f.String(1, &m.TypeURL)
	f.String(2, &m.ConfigPath)
	f.Bytes(3, &m.ConfigBody)
}

type BootstrapParams struct {
	InstanceID             string
	Namespace              string
	LogLevel               int32
	ContainerdVersion      string
	ContainerdTTRPCAddress string
	ContainerdGRPCAddress  string
	ContainerdBinary       string
	Extensions             []*Extension
	SocketDir              string
}

func (m *BootstrapParams) Fields(f *wire.Fields) {
	f.String(1, &m.InstanceID)
	f.String(2, &m.Namespace)
	wire.Int32(f, 3, &m.LogLevel)
	f.String(4, &m.ContainerdVersion)
	f.String(5, &m.ContainerdTTRPCAddress)
	f.String(6, &m.ContainerdGRPCAddress)
	f.String(7, &m.ContainerdBinary)
	wire.List(f, 8, &m.Extensions)
	f.String(9, &m.SocketDir)
}

type Extension struct {
	Value *wire.Any
}

func (m *Extension) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Value)
}

type RuntimeVersion struct {
	Version  string
	Revision string
}

func (m *RuntimeVersion) Fields(f *wire.Fields) {
	f.String(1, &m.Version)
	f.String(2, &m.Revision)
}

type RuntimeInfo struct {
	Name        string
	Version     *RuntimeVersion
	Options     *wire.Any
	Features    *wire.Any
	Annotations map[string]string
}

func (m *RuntimeInfo) Fields(f *wire.Fields) {
	f.String(1, &m.Name)
	wire.Sub(f, 2, &m.Version)
	wire.Sub(f, 3, &m.Options)
	wire.Sub(f, 4, &m.Features)
	f.Map(5, &m.Annotations)
}
