// Package volume makes what a pod's volumes are on the node and takes it away again.
//
// Everything is below the pod's own directory, at the places where a kubelet has it:
//
//	<pod>/volumes/kubernetes.io~empty-dir/<name>     a directory, or a tmpfs for medium Memory
//	<pod>/volumes/kubernetes.io~configmap/<name>     ..data → ..<n>; each key a link into ..data
//	<pod>/volumes/kubernetes.io~secret/<name>
//
// A hostPath is where it is; it is only looked at, and made where its type says so.
//
// Prepare can be called again after a crash at any point and finishes its work; Remove likewise.
// The package never enters a container and never writes through a path that one can influence: Prepare is
// over before the first container starts, and what it does again later is confined to an os.Root.
package volume
