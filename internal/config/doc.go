// Package config reads how a node is set up: one TOML file, drop-ins beside it, and on top of them what
// flags and the environment say.
//
//	/etc/berth/config.toml      the file; it may be missing
//	/etc/berth/config.d/*.toml  drop-ins, read in the order of their names
//
// A later file replaces single keys of an earlier one, lists as a whole; rows of handlers are merged key
// by key. Flags and environment variables beat files.
//
// Promises:
//   - Every key is a field of Config with a comment; default.toml, which `berth config default` prints,
//     is made from these comments, and a test keeps it current.
//   - An error names file, line and key, and what would be right. An unknown key is an error that names
//     the nearest known one. All errors of a file are told at once.
//   - Every value knows where it came from.
//
// It never opens what the values name: whether an address is free or a certificate good is for the room
// that uses it to say.
package config
