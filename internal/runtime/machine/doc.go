// Package machine puts the runtime on a real machine: it adapts the image store, the network, the shims
// and the kernel's cgroups and mounts to what package runtime asks for.
//
// It decides nothing. What is here is translation between the types of two rooms; a rule belongs into
// one of them.
package machine
