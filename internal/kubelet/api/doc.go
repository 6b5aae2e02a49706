// Package api is the node API: what a Berth node answers on its own socket, the server that serves it
// and the Go client that the command line uses.
//
//	GET    /healthz                                  "ok"
//	GET    /pods                                     v1.PodList, each pod with its status
//	POST   /manifests                                YAML or JSON documents; answers the v1.PodList made from them
//	GET    /pods/{namespace}/{name}                  v1.Pod
//	DELETE /pods/{namespace}/{name}?gracePeriodSeconds=N   answers at once with the v1.Pod, deletionTimestamp set
//	GET    /events?since=N                           NDJSON of Event, for ever
//	GET    /containerLogs/{namespace}/{name}/{container}?follow&previous&timestamps&tailLines&sinceSeconds&limitBytes
//	POST   /shutdown?ifIdle=true                     ends the daemon; 409 if it is not idle
//
// Errors are metav1.Status documents. Requests are bounded to MaxManifest bytes.
//
// The server knows pods by the Node interface alone; it never touches a runtime.
package api
