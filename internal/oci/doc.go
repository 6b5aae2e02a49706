// Package oci is the engine behind runc's command line: what `berth oci` and the program berth-oci run,
// so that containerd, Docker, Podman and others can use Berth as their OCI runtime by its name.
//
// The commands, flags, state, log lines and exit codes are those that callers of runc rely on. Each
// command is a process of its own; what they share is the state directory:
//
//	<root>/<id>/state.json   who the container is; written before anything is made
//	<root>/<id>/config.json  the configuration as it was when the container was created
//	<root>/<id>/start.sock   where a created container waits for start; gone once it has started
//	<root>/<id>/lock         held by whoever changes the container
//
// It promises that state.json is there before the container's cgroup and processes are, so whatever
// died half-way can be deleted; that what the kernel knows (does it run, is it paused, does it still
// wait) is asked of the kernel each time; and that the directories are 0700.
//
// It never reads images, networks or pods, and keeps no process running: a container's parent is
// whoever reaps for the caller.
package oci
