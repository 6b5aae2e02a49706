// Package inflate decompresses gzip streams (RFC 1951 and 1952) into buffers that the caller passes on, with the
// speed that pulling an image needs; docs/decisions/0011-inflate.md says why it is not a library.
//
// It takes a stream for hostile: whatever the bytes are, it ends with them or with an error, writes nothing but what
// Decode says, and keeps a fixed amount of memory. How much comes out is for the caller to bound.
//
// It uses no unsafe code. The hot loop (symbols) works on arrays whose sizes are powers of two, with masked
// indices: the compiler then knows them to be inside, and leaves out the checks; what they may not reach within the
// array, the loop's own conditions see to. TestDifferential and the fuzz test hold it against compress/flate.
package inflate
