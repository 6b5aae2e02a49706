package cgroup

// Hierarchies are a machine's cgroup hierarchies.
type Hierarchies struct{}

// Hierarchy is one mounted hierarchy.
type Hierarchy struct {
	// MountPoint is the absolute directory of the root.
	MountPoint string
	// Controllers are those that this hierarchy offers ("cpu", "cpuacct"); none for a named one.
	Controllers []string
	// Name is that of a named v1 hierarchy ("systemd"), else empty.
	Name string
	// V2 tells that this is the unified hierarchy.
	V2 bool
}
