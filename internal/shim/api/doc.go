// Package api holds the messages of berth.shim.v1, the service that Berth's shim offers beside
// containerd's Task v3 and Sandbox v1; shim.proto is its manual.
//
// It also names what both ends must agree on and no protocol buffer says: the schemes of stdio URIs, and
// the files in a group's directory (package state reads and writes them).
package api

// Service is the service's name.
const Service = "berth.shim.v1.Shim"

// Schemes of the stdin, stdout and stderr of Task.Create and Task.Exec that only Berth's shim knows. A
// plain path is a FIFO, as the standard has it.
const (
	// SchemeCRILog, followed by an absolute path ("cri:///var/log/pods/…/0.log"), makes the shim write
	// the CRI log file itself. Standard output and standard error name the same file.
	SchemeCRILog = "cri://"
	// SchemeAttach as stdin keeps the input open for clients of Attach.
	SchemeAttach = "attach://"
)

// FieldOOMVictims is a field that Berth's shim adds to containerd's TaskOOM event, which ignores it: repeated strings as
// those of Exit.oom_victims.
const FieldOOMVictims = 1000

// AnnotationSandboxID is the annotation of a container's spec that names its sandbox, as all CRI runtimes
// set it.
const AnnotationSandboxID = "io.kubernetes.cri.sandbox-id"
