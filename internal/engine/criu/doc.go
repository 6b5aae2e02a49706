// Package criu writes what the processes of a container are into files, and makes them anew of such files, by CRIU
// (criu.org), an external program of which version 4 or newer is needed.
//
// It finds a CRIU and says clearly when there is none that could do it (ErrUnavailable), tells it which mounts, files
// and namespaces of a container belong to somebody else, and reports its failures in its own last words. A container
// runs on after Dump, or stays frozen if it was: also after an error.
//
// Restore takes the files for hostile: CRIU does what they say, as root. So it reads the part of them that says which
// namespaces, mounts and rights the processes get, and refuses what the container that waits for them does not have
// (ErrMismatch). Nothing is mounted in the host's mount namespace meanwhile.
//
// CRIU is an answer to a rare request, never part of a start, an exec or an end. The package holds no state.
package criu
