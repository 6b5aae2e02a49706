// Package criconfig says in CRI's words what a pod asks for: the configuration of its sandbox and of each
// container, as a kubelet would write it (labels, annotations, environment, security, resources).
//
// It is pure: all that is needed comes in as an Input.
package criconfig
