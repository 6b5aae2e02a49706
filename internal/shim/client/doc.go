// Package client is the daemon's end of the shims: it starts them, finds them again after a restart of
// the daemon, replaces one that died, and carries calls to them.
//
// A Manager keeps the shims below one run directory. Acquire gives a sandbox its place: a shim of the
// same tenant and handler with room, or a new one. The assignment is on disk before anything happens, so
// the next daemon knows it. From then on the Shim's services are the standard ones (Task v3, Sandbox v1)
// and, for Berth's own shim, berth.shim.v1.
//
// What it promises:
//   - Every call ends: a call without a deadline gets one (Task.Wait and WaitSandbox excepted).
//   - A Shim stays valid when its process dies: the Manager starts a successor, hands it the descriptors
//     that the dead one left with us, and calls made meanwhile wait for it or fail as UNAVAILABLE.
//   - Events never block their producers, and the death of a shim is one of them.
//   - Close ends no shim. Pods do not notice the daemon's death.
//
// What it never does: decide what runs where in the cluster, read an image, know the CRI, or enter a
// container.
package client
