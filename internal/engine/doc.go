// Package engine turns OCI bundles into Linux processes.
//
// Create clones a child into the namespaces of the spec, puts it into its cgroup, builds its root
// filesystem and mounts, and lets it wait; Start makes it execute the user's program; Exec runs another
// process in a running container. The child is a tiny sealed program that only executes system calls
// (package stage), so nothing large is executed on the way and all decisions are made here, in Go.
//
// What it promises:
//   - Nothing of a container's file systems is mounted in the host's mount namespace: they are made
//     detached and live and die with the container's processes. That holds for a container that lives in the host's
//     mount namespace, too.
//   - Every path that an image or a container can influence is resolved by openat2 below the container's
//     root, and used by descriptor.
//   - A field of the spec that it does not do is an error that names it.
//   - A failed Create leaves nothing: no process, no cgroup, no mount.
//   - A container outlives the process that created it; Adopt takes it over from its State.
//
// # User namespaces
//
// A container gets one by a namespace of type user without a path and linux.uidMappings and gidMappings, or joins one by its
// path. A pod's containers share one like this:
//
//  1. PinNamespaces with Net and User makes a user namespace and a network namespace that belongs to it, in files "user" and
//     "net" of a directory.
//  2. PinNamespaces with IPC, UTS and UserPath makes the rest, which belongs to the same user namespace, wherever it is wanted.
//  3. Each container's spec joins all of them by path. Its rootfs is an overlay with the options "uidmap=0:H:N" and
//     "gidmap=0:H:N" (see Mount): layers stay as they were unpacked, and the upper directory needs no care of the caller's. Volumes
//     are binds with the option idmap (or ridmap) and uidMappings and gidMappings of the mount.
//
// What namespaces do not belong to the user namespace is joined and shown all the same: sysfs and mqueue then come from a
// mount that this process makes. Device nodes are bound, not made.
//
// It knows nothing of images, networks, pods or CRI, and keeps no files: State is the caller's to store.
//
// Spec: https://github.com/opencontainers/runtime-spec, version 1.3.
package engine
