// Package crilog writes the log file of a container in the format that the kubelet reads:
//
//	2026-11-21T11:38:00.123456789Z stdout F a whole line
//	2026-11-21T11:38:00.123456789Z stderr P a piece of a line longer than 16 KiB
//
// A Log is the file; each of its Streams carries a container's FIFO (or the master of its terminal) into it.
// A line is a record tagged F. A longer line is cut into pieces of 16 KiB tagged P, and what follows the last
// cut is tagged F. What a container leaves without a newline at its end is one record tagged P: readers
// then print it without a newline too.
//
// # No line is lost or doubled when the writer is killed
//
// Between the FIFO and the log lies a spool: a small file in the run directory. One step of a stream is:
//
//  1. splice(FIFO → end of the spool). For a SIGKILL this is one event: a byte is in one or in the other.
//  2. Write into the spool's first page which bytes of the spool are about to be logged, and which inode and
//     size the log has before.
//  3. Append the records to the log.
//
// A successor opens the same spool. The log's size tells if step 3 happened wholly (go on behind it), not at
// all, or partly (cut the log back and repeat it). An unfinished line simply waits in the spool. This needs no
// descriptor of the dead process, so it also holds when the daemon died beside the shim, as long as the
// container's own end keeps the FIFO alive. A terminal's master can't be spliced into a file: there the bytes
// of one read, at the very moment of the kill, may be lost.
//
// # Rotation
//
// The kubelet renames the file and calls Reopen. Where nobody does, a Log rotates by itself (Rotation): between two
// records, so that each is in one file, whole. A reader that follows finds a new file at the path, as after the kubelet's.
//
// What the package never does: compress, limit the size of what the kubelet rotates, wait for the disk (fsync), or hold a container up because its log can't be written: such output is counted and named
// in the log when writing works again.
package crilog
