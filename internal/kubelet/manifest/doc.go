// Package manifest turns the bytes of a manifest into pods that the node can run, or into errors that say
// what to change.
//
// A manifest is a stream of v1 Pod, ConfigMap and Secret documents, YAML or JSON, also wrapped in a v1
// List, of at most MaxSize bytes. Decoding is strict: an unknown field and a key that is there twice are
// errors that name the path. A field that Kubernetes knows and Berth does not do yet is an error too,
// never ignored (see supported.go, which lists what it does). Then the API server's defaults are set and
// the values checked in its spirit. All that is wrong is reported, not only the first thing.
//
// The package does no I/O beyond the reader that it is given, and keeps no state.
package manifest
