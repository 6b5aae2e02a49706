// Package streaming serves the streams of exec, attach and port-forward over HTTP, by SPDY or WebSocket
// (the wire protocols are k8s.io/cri-streaming's, and for clients of today version 5 of the WebSocket
// protocol and SPDY tunnelled through one): the CRI answers with a URL, and a client that comes with it gets
// its streams.
//
// Promises:
//   - A URL holds 130 random bits, is good for one use and for Config.TokenLife, and for the kind of
//     stream that it was made for. There are at most 1000 that wait for their client.
//   - A session ends with its connection: when the client is gone, the context that Runtime was called
//     with ends, whatever the streams are doing, so that nothing waits for nobody.
//   - What the caller did not ask for (stdin, stdout, stderr) is nil for the Runtime.
//   - It listens on loopback unless it is told otherwise. With TLS it speaks 1.2 and newer.
//
// It knows no containers and moves no bytes by itself.
package streaming
