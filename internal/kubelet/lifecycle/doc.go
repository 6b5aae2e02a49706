// Package lifecycle decides what to do next with one pod. It is the core of the kubelet and does no I/O,
// starts no goroutine and reads no clock:
//
//	Next(spec, observed, now) → actions, requeueAt, status
//
// The caller keeps Observed true to what it knows: it adds what the runtime tells, marks the actions
// that it has begun (InFlight) and records those that failed (Failures). Next can be called at any time and as
// often as one likes; with the same input it gives the same answer. What it wants to remember it puts
// where a crash does not reach it: a container's back-off travels with its instance (Instance.BackOff).
//
// The life of a pod:
//
//	volumes ┐
//	images  ├─ in parallel ─► init containers in order ─► app containers in parallel ─► probes, restarts
//	sandbox ┘
//
// and its end: stop the app containers in parallel with what is left of the grace period, then the sidecars in
// reverse order, then remove the sandboxes with their containers, then volumes, logs and records.
//
// What holds at all times (the simulation in sim_test.go checks it):
//   - an init container starts only when the one before it has ended well (a sidecar: has started) in this sandbox;
//   - an app container starts only after all of them;
//   - there are never two living instances of one container, nor two living sandboxes;
//   - an instance starts no earlier than its predecessor's end plus its back-off;
//   - a pod that ended or is deleted starts nothing;
//   - clean-up begins only when no sandbox and no container is left.
package lifecycle
