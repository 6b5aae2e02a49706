// Package kubelet is the node agent: it takes pods from its sources, keeps a worker for each, and drives a
// CRI runtime until what runs is what was asked for.
//
//	manifest ──► sources ──► store (pod.json) ──► worker ──► lifecycle.Next ──► actions ──► CRI
//	                                               ▲                                        │
//	                                               └──────── results and runtime events ◄───┘
//
// A worker is one goroutine. It holds everything that is known of its pod, gives it to the pure function
// lifecycle.Next and runs the actions that come back, each in a goroutine of its own; their results come
// back as messages. So no step of a pod waits for another one that it does not need, and a hung call
// slows its own pod and no other. There is no periodic re-list: the runtime's event stream wakes the
// worker; only a stream that broke is followed by one list.
//
// Promises: a pod is persisted before it is acknowledged; the wish to remove it is persisted before
// anything of it is removed; after a restart of the daemon running containers are taken over by their labels,
// untouched; a removed pod leaves no mount, file or directory of the kubelet's.
//
// It never knows which CRI runtime is below, and it touches only pods that it was given itself: sandboxes
// that another CRI client made are left alone.
package kubelet
