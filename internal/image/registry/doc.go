// Package registry reads manifests and blobs from an OCI registry (distribution-spec, Pull).
//
// It speaks TLS, and plain HTTP to loopback hosts and to those that are configured for it only: a
// redirect or a token server can't talk it into more. Credentials go to the registry (and its token
// server) alone. What fails for a while (408, 429, 5xx, a broken or silent connection) is tried again
// with growing pauses, and a blob goes on where it broke off.
//
// The challenge, tokens and their refresh are go-containerregistry's transport package.
//
// A manifest asked for by digest is checked against it; a blob's length is checked here, its digest by
// whoever gets its bytes. Every answer that is kept in memory is bounded.
package registry
