// Package runtime is the node's memory and will: which sandboxes and containers exist, what is being
// done to them, and what has to be undone. It stands between the CRI (package cri, which translates)
// and the rooms that touch the machine: image, network, shim/client and the cgroups of engine.
//
// # What it promises
//
//   - Intent before effect. Every outside effect (cgroup, netns, network, shim, mount, snapshot,
//     bundle, task) goes through ledger.do, which writes an intent to the sandbox's journal, does the
//     thing and writes that it is done. There is no other way to the outside. Whoever opens the
//     runtime after a crash undoes what was not finished, and Fsck can prove that nothing is left.
//   - Every call is idempotent and joins. RunSandbox with the pod uid, name and attempt of a call in
//     flight waits for that call and returns its result; so do all others. An operation belongs to
//     the runtime, not to its caller: a caller that gives up does not stop it.
//   - An actor per sandbox, and one per container in it. Operations on one object follow each other;
//     operations on two objects never wait for each other, except that a sandbox's end interrupts
//     what its containers are doing. No lock is held over a system call or a call to a shim.
//   - Lists and states are answered from memory.
//   - Death is decided by the kernel. A container is killed through its cgroup and its pidfd; a shim
//     that does not answer is told later.
//
// # What it never does
//
// It knows no protobuf of the CRI and no gRPC, pulls no image, and writes no log line of a container.
//
// # Lock order
//
// Runtime.mu, then sandbox.mu, then container.mu, then ledger.mu or eventLog.mu. All of them guard
// plain memory and are held for a few instructions.
//
// # On disk
//
// All of it is under <run>/runtime and dies with the boot:
//
//	boot                    the boot that the rest belongs to
//	journal/<sandbox id>    intents, one JSON object a line
//	sandboxes/<id>.json     what RunSandbox was asked and what came of it
//	containers/<id>.json    the same for a container
//	pods/<sandbox id>/      hostname, hosts, resolv.conf and the mount point of /dev/shm
//	userns/<sandbox id>/    the pinned user namespace of a pod that has one, and what belongs to it
//	volumes/<container id>/ mounts of the images that are volumes of a container
//
// Containers' bundles are under <run>/bundles, snapshots where the image room keeps them. A sandbox has a
// bundle, too, where its containers share a PID namespace: see keeper.go.
package runtime
