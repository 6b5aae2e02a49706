// Package ttrpc is ttrpc (https://github.com/containerd/ttrpc/blob/main/PROTOCOL.md) as shims speak it: both ends, and
// unary calls alone, over messages of package wire. A shim that waits costs one goroutine a connection.
//
// What it promises:
//   - Clients and servers of github.com/containerd/ttrpc understand it; the tests hold it against them.
//   - A message is at most 4 MiB, and a connection has at most 4,096 calls at a time: what is beyond gets an answer that
//     says so. A client that sends what is no request gets an answer or is hung up on, and one that does not read its
//     answers is read no further. Neither holds up another connection.
//   - Errors travel as gRPC's codes and are those of package errdefs at the other end.
//   - A call that waits for a slow peer ends with its context.
//
// It never starts or ends what it serves, and it has no streams: a request for one is answered as any other.
package ttrpc
