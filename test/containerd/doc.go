// Package containerd tests the shim below a stock containerd: `ctr` and containerd's API drive it as any other runtime,
// through start and delete, the Task service, FIFOs and events.
//
// The tests need root, bin/containerd-shim-berth-v1 (make build), containerd and ctr in .cache/containerd/bin (make
// containerd) and a static busybox; what is missing they say when they skip. Each has a containerd namespace of its own,
// and ends with the proof that no process, cgroup, mount or file of the shim is left.
package containerd
