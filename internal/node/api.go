package node

import (
	"time"

	"github.com/11f9778f/berth/internal/image"
	"github.com/11f9778f/berth/internal/trace"
)

// The paths below /node/ on node.sock. Errors are {"error": "a sentence"} with a code that is not 2xx. Those of images
// take &namespace=N; without it they work in Kubernetes'.
//
//	GET    /node/info                    Info
//	GET    /node/images                  []image.Image, with all=true of all namespaces
//	GET    /node/image?ref=R             image.Image
//	DELETE /node/image?ref=R
//	GET    /node/image/explain?ref=R     image.Explanation
//	GET    /node/image/users?ref=R       []string, "container web of pod default/hello"
//	POST   /node/image/tag?ref=R&name=N  image.Image
//	DELETE /node/image/tag?name=N
//	POST   /node/image/pin?ref=R&pin=B   image.Image
//	POST   /node/image/push?ref=R&to=N   NDJSON of Step
//	GET    /node/images/export?ref=R&…   a tar; the trailer Berth-Error says what went wrong
//	POST   /node/images/prune?high=…     image.Pruned
//	POST   /node/images/pull?ref=R       NDJSON of Step
//	POST   /node/images/import?name=N    body: archive; NDJSON of Step
//	GET    /node/inventory               []Item
//	POST   /node/repair                  []Item that were removed
//	GET    /node/network                 []PodNetwork
//	GET    /node/network/check?pod=P&…   []PodNetworkCheck, of all pods where none is named
//	GET    /node/trace/NAMESPACE/POD     Trace
//	POST   /node/checkpoint/NAMESPACE/POD?folder=F&container=C&…  Checkpoint

// Info is what a node says of itself.
type Info struct {
	Version string    `json:"version,omitempty"`
	Pid     int       `json:"pid"`
	Started time.Time `json:"started"`
	Root    string    `json:"root"`
	Run     string    `json:"run"`
	// CRI is the socket where the CRI is served.
	CRI   string `json:"cri"`
	Names Names  `json:"names"`
}

// Step is one line of a pull or an import: how far it is, or in the last line what came of it.
type Step struct {
	Progress *image.Progress `json:"progress,omitempty"`
	Images   []image.Image   `json:"images,omitempty"`
	// Sent of All bytes are there: a push.
	Sent int64 `json:"sent,omitempty"`
	All  int64 `json:"all,omitempty"`
	// Pushed is the full name with the digest, the last line of a push.
	Pushed string `json:"pushed,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Item is one thing on disk or in the kernel that Berth made.
type Item struct {
	Kind string `json:"kind"` // mount, netns, link, cgroup, snapshot, layer, blob, shim, …
	Name string `json:"name"`
	// Owner is who it belongs to, "pod default/hello" or an ID; empty if it has none.
	Owner string `json:"owner,omitempty"`
	// Note says what is wrong with it, if anything.
	Note string `json:"note,omitempty"`
	// Orphan is set where nobody owns it any more: what Repair removes.
	Orphan bool `json:"orphan,omitempty"`
}

// Checkpoint is what a pod's checkpoint has written.
type Checkpoint struct {
	Pod string `json:"pod"`
	// Folder has an archive for each container, what the pod shares, and what it is made of.
	Folder     string   `json:"folder"`
	Containers []string `json:"containers"`
}

// Trace is where the time of a pod's start went.
type Trace struct {
	Pod   string       `json:"pod"`
	Spans []trace.Span `json:"spans"`
}
