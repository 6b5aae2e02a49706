// Package telemetry tells monitoring what a node does: numbers for Prometheus, and, if a collector is
// configured, a trace of each call with a span for each of its steps, sent by OTLP.
//
// Promises:
//   - Numbers cost nothing while nobody asks: what can be counted when asked is counted then.
//   - Without a collector no trace is made. With one that does not answer, spans are dropped; no call
//     ever waits for it.
//
// It knows the node by the State interface alone, and steps by package trace. It never looks into
// containers.
package telemetry
