// Package unpack applies one layer's tar stream to an empty directory, in the form that overlayfs wants
// for a lower directory.
//
// It takes the stream for hostile. Every name is resolved by the kernel with the directory as the root
// (openat2(2), RESOLVE_IN_ROOT), its last component is never followed, and everything after that works
// on descriptors. An entry that tries to leave ("../x") is an error that names it; nothing outside the
// directory is read or written. Sizes, entries and depth are bounded by Limits.
//
// Deletions become what overlayfs reads: "dir/.wh.name" the character device 0:0 at dir/name,
// "dir/.wh..wh..opq" the attribute trusted.overlay.opaque of dir. A whiteout speaks of lower layers
// only (image-spec, layer.md): what the same layer brings at that name stays, in whatever order the two
// come, and a directory then hides the lower one.
//
// Kept: owner, mode with set-ID bits, modification time, security.capability, POSIX ACLs and user.*
// attributes, devices, FIFOs, hard links within the layer. Left out: every other attribute, above all
// trusted.overlay.*, which would let a layer speak to overlayfs.
//
// It needs root (mknod, chown, trusted.*). Nobody else may change the directory meanwhile.
package unpack
