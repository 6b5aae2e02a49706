// Package criconformance checks what critest, Kubernetes' own conformance suite, never calls of the
// Container Runtime Interface v1: events, statistics of pods, metrics, streamed lists, updates, and the
// contracts in the comments of api.proto. It takes any endpoint, so that it can be tried on another
// runtime than Berth (a test of the test):
//
//	go run ./test/criconformance/run                      Berth, a node of its own
//	go run ./test/criconformance/run -containerd DIR      containerd and runc from DIR, a daemon of its own
//	go run ./test/criconformance/run -endpoint SOCKET -image REF
//
// An RPC that the endpoint answers with Unimplemented is skipped, and the caller decides whether that is
// good. Everything that a check makes it removes.
package criconformance
