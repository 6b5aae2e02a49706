// Package test drives the built binaries in bin/ from end to end, as a person or a script would: each
// test has a node of its own, with its own root and run directory and therefore its own bridge, table
// and cgroup, and ends with the proof that nothing of it is left on the machine.
//
// The tests need root and bin/berth (make build); what else one needs it says when it skips.
package test
