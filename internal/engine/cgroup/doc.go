// Package cgroup makes, limits, watches, kills and removes control groups: the rooms that the kernel
// counts and bounds processes in.
//
// A Group is a path such as "/berth/pod1/web", relative to the roots of the machine's hierarchies. Under
// cgroup v2 there is one hierarchy; under v1 there is one for each controller (or for several mounted
// together), perhaps named ones that limit nothing, and perhaps an additional v2 hierarchy without
// the controllers that v1 has taken ("hybrid"). Hierarchies are detected controller by controller from
// the mount table, never by the presence of a directory. A group exists in all of them.
//
// Promises:
//   - Nothing but directories at or below the first component of a group's path is made, written or
//     removed. The one exception: under v2, controllers that a group needs are added (never taken
//     away) to the root's cgroup.subtree_control. Nothing is ever mounted or remounted.
//   - Create, Apply, Kill and Delete are idempotent: a second call finishes what a first one left.
//   - Kill beats fork bombs: by cgroup.kill, or by freezing first.
//   - A resource that this kernel can't limit is an error that wraps ErrUnsupported and names the
//     controller; it is never skipped silently.
//   - Each error names the file, the value and what the kernel said.
//
// Never: it knows no containers, no specs beyond specs.LinuxResources, no systemd.
package cgroup
