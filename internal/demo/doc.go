// Package demo is the example that needs no network: an image made from Berth's own static binary,
// and the three small programs in it (a page writer, a web server, a reader) that the example pod
// runs.
//
// The image is called Reference. It has one layer with /berth, /etc/passwd and /etc/group, and is
// labelled with the identity of the binary it was made from, so that a store can tell whether the
// image that it holds is of this binary.
//
// The package promises the same image for the same binary, byte for byte. It never talks to a
// registry, a store or a daemon; who keeps the image decides when it is made.
package demo
