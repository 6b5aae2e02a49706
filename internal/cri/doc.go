// Package cri speaks the Container Runtime Interface v1 (k8s.io/cri-api v0.37) for the node: it turns
// requests into calls of package runtime and of the image store, and their answers and errors back.
//
// It is thin: a rule about sandboxes or containers belongs into runtime. What is decided here is only
// what the CRI itself says: which fields mean what, which codes errors get, that short IDs name what they
// begin.
//
// Promises:
//   - A field that can't be honoured is refused with its name (refuse.go); nothing is ignored, except what
//     the CRI itself calls information: annotations of images, the resource sums of a sandbox, and settings
//     of a pause container, of which there is none. SELinux options, and the default AppArmor profile, are
//     without effect on a node that does not have these modules, as with every runtime.
//   - Errors are gRPC status errors, also for callers in the same process.
//   - Requests are data: sizes and characters are checked before anything happens.
//
// It makes no system call and touches no container by itself.
package cri
