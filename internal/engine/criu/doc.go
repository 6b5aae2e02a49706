// Package criu writes what the processes of a container are into files, by CRIU (criu.org), an external program of
// which version 4 or newer is needed.
//
// It finds a CRIU and says clearly when there is none that could do it (ErrUnavailable), tells it which mounts, files
// and namespaces of a container belong to somebody else, and reports its failures in its own last words. A container
// runs on after Dump, or stays frozen if it was: also after an error.
//
// CRIU is an answer to a rare request, never part of a start, an exec or an end. The package holds no state, kills no
// container and restores none.
package criu
