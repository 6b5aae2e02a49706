// Package server is the shim: the keeper of a group of pods. It answers containerd's Task v3 and Sandbox v1
// services and berth.shim.v1 over ttrpc, runs containers through the engine, owns their stdio and writes their
// CRI logs, and reports their ends.
//
// What it promises:
//   - No call waits for another container: the server's lock guards its maps, a container's lock its fields; a
//     system call is made under neither.
//   - What it knows is in files below its directory before a call that changed it returns, and the descriptors
//     that matter are also with the daemon (package fdstore). Killed at any moment, it can be replaced by New and
//     Recover in another process: containers run on, logs continue without a gap, ends that happened in between
//     are known.
//   - It can execute another binary in its place (upgrade.go): a takeover in the same process, which cuts nothing off.
//   - It needs no daemon: while none listens, events wait in memory and logs are written as ever.
//   - When a process's end is reported, all that the process itself wrote is in the log.
//
// It also keeps the output of containers that another project's shim runs (absent.go).
//
// What it never does: pull or unpack anything, decide about restarts, know Kubernetes objects, or outlive its
// last sandbox after Shutdown.
//
// # The directory of a group
//
//	shim.sock, fd.sock, stream.sock   ttrpc, descriptors, exec and attach data
//	containers/<id>.json              one a container: see record
//	sandboxes/<id>.json               one a sandbox
//	pods/<sandbox>/ns/{ipc,uts}       pinned namespaces
//	io/<id>.{stdout,stderr}           log spools (package crilog)
//	shim.log                          what the shim itself has to say
package server
