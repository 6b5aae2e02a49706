package containerd

import "github.com/11f9778f/berth/internal/shim/wire"

// The messages of github.com/containerd/cgroups/v3, cgroup1/stats/metrics.proto and cgroup2/stats/metrics.proto, with the
// fields that Berth fills in. What both versions have in common, V1 and V2 tell apart.

type MetricsV1 struct {
	Pids             *PidsStat
	CPU              *CPUStatV1
	Memory           *MemoryStatV1
	Blkio            *BlkIOStat
	MemoryOomControl *MemoryOomControl
}

func (m *MetricsV1) Fields(f *wire.Fields) {
	wire.Sub(f, 2, &m.Pids)
	wire.Sub(f, 3, &m.CPU)
	wire.Sub(f, 4, &m.Memory)
	wire.Sub(f, 5, &m.Blkio)
	wire.Sub(f, 9, &m.MemoryOomControl)
}

type PidsStat struct {
	Current uint64
	Limit   uint64
}

func (m *PidsStat) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Current)
	f.Uint64(2, &m.Limit)
}

type CPUStatV1 struct {
	Usage      *CPUUsage
	Throttling *Throttle
}

func (m *CPUStatV1) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Usage)
	wire.Sub(f, 2, &m.Throttling)
}

type CPUUsage struct {
	Total  uint64
	Kernel uint64
	User   uint64
}

func (m *CPUUsage) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Total)
	f.Uint64(2, &m.Kernel)
	f.Uint64(3, &m.User)
}

type Throttle struct {
	Periods          uint64
	ThrottledPeriods uint64
	ThrottledTime    uint64
}

func (m *Throttle) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Periods)
	f.Uint64(2, &m.ThrottledPeriods)
	f.Uint64(3, &m.ThrottledTime)
}

type MemoryStatV1 struct {
	Cache                   uint64
	RSS                     uint64
	PgFault                 uint64
	PgMajFault              uint64
	InactiveFile            uint64
	HierarchicalMemoryLimit uint64
	TotalCache              uint64
	TotalRSS                uint64
	TotalPgFault            uint64
	TotalPgMajFault         uint64
	TotalInactiveFile       uint64
	Usage                   *MemoryEntry
	Swap                    *MemoryEntry
	Kernel                  *MemoryEntry
}

func (m *MemoryStatV1) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Cache)
	f.Uint64(2, &m.RSS)
	f.Uint64(9, &m.PgFault)
	f.Uint64(10, &m.PgMajFault)
	f.Uint64(13, &m.InactiveFile)
	f.Uint64(16, &m.HierarchicalMemoryLimit)
	f.Uint64(18, &m.TotalCache)
	f.Uint64(19, &m.TotalRSS)
	f.Uint64(26, &m.TotalPgFault)
	f.Uint64(27, &m.TotalPgMajFault)
	f.Uint64(30, &m.TotalInactiveFile)
	wire.Sub(f, 33, &m.Usage)
	wire.Sub(f, 34, &m.Swap)
	wire.Sub(f, 35, &m.Kernel)
}

type MemoryEntry struct {
	Limit   uint64
	Usage   uint64
	Max     uint64
	Failcnt uint64
}

func (m *MemoryEntry) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Limit)
	f.Uint64(2, &m.Usage)
	f.Uint64(3, &m.Max)
	f.Uint64(4, &m.Failcnt)
}

type MemoryOomControl struct {
	OomKill uint64
}

func (m *MemoryOomControl) Fields(f *wire.Fields) {
	f.Uint64(3, &m.OomKill)
}

type BlkIOStat struct {
	IOServiceBytesRecursive []*BlkIOEntry
	IOServicedRecursive     []*BlkIOEntry
}

func (m *BlkIOStat) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.IOServiceBytesRecursive)
	wire.List(f, 2, &m.IOServicedRecursive)
}

type BlkIOEntry struct {
	Op     string
	Device string
	Major  uint64
	Minor  uint64
	Value  uint64
}

func (m *BlkIOEntry) Fields(f *wire.Fields) {
	f.String(1, &m.Op)
	f.String(2, &m.Device)
	f.Uint64(3, &m.Major)
	f.Uint64(4, &m.Minor)
	f.Uint64(5, &m.Value)
}

type MetricsV2 struct {
	Pids         *PidsStat
	CPU          *CPUStatV2
	Memory       *MemoryStatV2
	IO           *IOStat
	MemoryEvents *MemoryEvents
}

func (m *MetricsV2) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Pids)
	wire.Sub(f, 2, &m.CPU)
	wire.Sub(f, 4, &m.Memory)
	wire.Sub(f, 6, &m.IO)
	wire.Sub(f, 8, &m.MemoryEvents)
}

type PSIData struct {
	Avg10  float64
	Avg60  float64
	Avg300 float64
	Total  uint64
}

func (m *PSIData) Fields(f *wire.Fields) {
	f.Double(1, &m.Avg10)
	f.Double(2, &m.Avg60)
	f.Double(3, &m.Avg300)
	f.Uint64(4, &m.Total)
}

type PSIStats struct {
	Some *PSIData
	Full *PSIData
}

func (m *PSIStats) Fields(f *wire.Fields) {
	wire.Sub(f, 1, &m.Some)
	wire.Sub(f, 2, &m.Full)
}

type CPUStatV2 struct {
	UsageUsec     uint64
	UserUsec      uint64
	SystemUsec    uint64
	NrPeriods     uint64
	NrThrottled   uint64
	ThrottledUsec uint64
	PSI           *PSIStats
}

func (m *CPUStatV2) Fields(f *wire.Fields) {
	f.Uint64(1, &m.UsageUsec)
	f.Uint64(2, &m.UserUsec)
	f.Uint64(3, &m.SystemUsec)
	f.Uint64(4, &m.NrPeriods)
	f.Uint64(5, &m.NrThrottled)
	f.Uint64(6, &m.ThrottledUsec)
	wire.Sub(f, 7, &m.PSI)
}

type MemoryStatV2 struct {
	Anon         uint64
	File         uint64
	InactiveFile uint64
	Pgfault      uint64
	Pgmajfault   uint64
	Usage        uint64
	UsageLimit   uint64
	SwapUsage    uint64
	SwapLimit    uint64
	MaxUsage     uint64
	PSI          *PSIStats
}

func (m *MemoryStatV2) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Anon)
	f.Uint64(2, &m.File)
	f.Uint64(13, &m.InactiveFile)
	f.Uint64(18, &m.Pgfault)
	f.Uint64(19, &m.Pgmajfault)
	f.Uint64(32, &m.Usage)
	f.Uint64(33, &m.UsageLimit)
	f.Uint64(34, &m.SwapUsage)
	f.Uint64(35, &m.SwapLimit)
	f.Uint64(36, &m.MaxUsage)
	wire.Sub(f, 38, &m.PSI)
}

type MemoryEvents struct {
	Max     uint64
	OomKill uint64
}

func (m *MemoryEvents) Fields(f *wire.Fields) {
	f.Uint64(3, &m.Max)
	f.Uint64(5, &m.OomKill)
}

type IOStat struct {
	Usage []*IOEntry
	PSI   *PSIStats
}

func (m *IOStat) Fields(f *wire.Fields) {
	wire.List(f, 1, &m.Usage)
	wire.Sub(f, 2, &m.PSI)
}

type IOEntry struct {
	Major  uint64
	Minor  uint64
	Rbytes uint64
	Wbytes uint64
	Rios   uint64
	Wios   uint64
}

func (m *IOEntry) Fields(f *wire.Fields) {
	f.Uint64(1, &m.Major)
	f.Uint64(2, &m.Minor)
	f.Uint64(3, &m.Rbytes)
	f.Uint64(4, &m.Wbytes)
	f.Uint64(5, &m.Rios)
	f.Uint64(6, &m.Wios)
}
