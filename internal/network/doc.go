// Package network gives pods their network: a network namespace that is pinned by a bind mount, and in
// it an interface with addresses, a default route and host ports.
//
// # What is in the room
//
//	           Manager
//	  ┌──────────┼──────────┬───────────┐
//	netns       book       rtnl      firewall          dnsconf
//	pins     who owns    bridge,   masquerade,    resolv.conf and hosts,
//	         which       veth      host ports      as pure functions
//	         address,    (rtnetlink) (nftables)
//	         port
//
// The network is the built-in bridge: one Linux bridge on the host, a veth pair for each pod, addresses
// out of a subnet, masquerade for what leaves it, host ports as elements of nftables maps, and a relay (package
// relay) for those on the host's ::1. Network is the face of it; the package cni has another network of the same
// face, made by CNI plugins. nettest is for tests.
//
// # Promises
//
//   - Every method is idempotent. A repeated call after a crash half-way finishes the work; calls for
//     one sandbox wait for each other, calls for different sandboxes do not.
//   - The record of what a sandbox owns is on disk before the kernel hears of it, and leaves the disk
//     after the kernel has forgotten it. No address and no host port has two owners.
//   - Whatever is made carries its owner's id (a pin's file name, a link's alias, a record's name), so
//     that Inventory can tell whose it is and Repair can remove what has no living owner. What is made ahead
//     is held by descriptors alone, and goes with the process.
//   - The host's own configuration is left alone, but for what routing needs: forwarding is switched
//     on, said so in the log, and left on, because others may have come to rely on it.
//
// # Never
//
// It knows nothing of CRI, containers or images, and it touches no link, table or namespace that it did
// not make.
package network
