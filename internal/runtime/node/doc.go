// Package node puts the runtime on a real machine: it adapts the image store, the network, the shims
// and the kernel's cgroups to what package runtime asks for, and opens and closes all of them in the
// right order.
//
// It decides nothing. What is here is translation between the types of two rooms; a rule belongs into
// one of them.
package node
