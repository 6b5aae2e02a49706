// Package cni attaches pods to a network of CNI plugins (github.com/containernetworking/cni, specification
// 1.1), in the place of the built-in bridge.
//
//	conflist.go    which network: the first good file of the folder that administrators and agents write to
//	arguments.go   what plugins are told of a pod
//	exec.go        plugins as processes, with an end to everything: time, output, descendants
//	attachment.go  what is written down of a pod before a plugin hears of it
//	network.go     ADD and DEL, by ledger.go; status.go has STATUS, GC and CHECK
//
// # Promises
//
//   - The folder is read at every use: what is in it now is what counts. A pod is detached by the configuration
//     that it was attached by, whatever became of the file.
//   - The record of an attachment is on disk, synced, before the first ADD, and leaves it after every plugin of
//     the chain has acknowledged DEL. DEL goes to each plugin, also if others fail, and is asked for again
//     until then: by the caller, and by the network itself, across a restart of the daemon or the machine.
//   - A plugin that a dead daemon left running is waited for before the pod's next call: no ADD overtakes a DEL.
//   - A plugin that hangs, lies or floods ends with an error that names it, after a bounded time.
//
// # Never
//
// It knows nothing of CRI. It touches no link, rule or file of plugins.
package cni
