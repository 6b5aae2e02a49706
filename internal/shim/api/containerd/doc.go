// Package containerd holds the messages of containerd's side of shim v2, as far as shims and their clients use them: the
// services Task v2 and v3, Sandbox v1 and Events v1, events, options, metrics of cgroups, and what the start command reads
// and prints. Their manuals are containerd's files, below api/ of its repository; the tests hold every message against them.
//
// It promises nothing but their encoding: see package wire.
package containerd
