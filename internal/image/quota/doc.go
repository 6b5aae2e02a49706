// Package quota gives folders project ids of their own on a filesystem with project quota (ext4, XFS), holds them to limits
// and tells what they take with one system call.
//
// Nothing is written down: a folder carries its id itself (FS_IOC_FSSETXATTR), and all that is made in it inherits it. A
// Book learns at the start which ids are taken, by looking at the folders.
//
// Promises:
//   - An id is given to one folder at a time, also where several processes have folders on one filesystem: it is taken on the
//     disk first, and counts only if nothing but that folder has it then.
//   - An id is free again when the kernel counts nothing for it any more; its limit goes before its folder.
//   - Ids are from 0x42000000 to 0x42ffffff, far from those of a kubelet (from 1,048,577 up), of Docker and podman (those
//     after their folder's own, from 1 up) and of people. One that somebody else has files with is left alone.
//
// It never: walks through a tree, mounts anything, or switches quota on.
package quota
