// Package checkpoint writes and reads the archive of a container that was checkpointed, in the format that Kubernetes'
// runtimes share: a tar, not compressed, with
//
//	checkpoint/       CRIU's images of the processes
//	dump.log          what CRIU said
//	config.dump       who the container is (Config)
//	spec.dump         its OCI spec
//	rootfs-diff.tar   its writable layer, as a layer of an image with whiteouts
//	container.log     its log
//
// Such an archive holds the memory of the processes, and so their secrets: it is made with mode 0600, and stands at its
// place whole or not at all. Nothing that a container can influence is followed: no link, neither in the writable layer
// nor as the log. Who reads one gets the plain files that are expected, within limits, and nothing else (Unpack).
//
// The checkpoint of a pod is a folder with an archive for each container, the pod's shared memory (shm.tar) and, written
// last, the names of the containers (pod.json).
package checkpoint
