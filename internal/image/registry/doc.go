// Package registry reads manifests and blobs from the hosts of an OCI registry (distribution-spec, Pull).
//
//	reference ──▶ hosts.Find ──▶ peer: mirror ─┐
//	                             peer: mirror ─┼─▶ guard ──▶ limit ──▶ Pool's connections
//	                             peer: server ─┘   (scheme, path, headers)
//
// Hosts are asked in their order (package hosts) until one delivers; a blob that one breaks off goes on at
// the next. The error tells of each host that was asked, with which credential, and what it answered.
//
// It speaks TLS, and plain HTTP to loopback hosts and to those that are configured for it only: a
// redirect or a token server can't talk it into more. The credentials of a pull go to the registry's own
// server, or to the host that they name, and to the token server that it names; a mirror gets those that
// Docker's configuration has for it. Headers and client certificates of a host go to it alone. What
// fails for a while (408, 429, 5xx, a broken or silent connection) is tried again with growing pauses,
// and a blob goes on where it broke off. A limit of the rate (429) holds for all clients of the pool: one
// request finds out when it is over.
//
// The challenge, tokens and their refresh are go-containerregistry's transport package.
//
// A manifest asked for by digest is checked against it; a blob's length is checked here, its digest by
// whoever gets its bytes. Every answer that is kept in memory is bounded.
package registry
