package sys

import "golang.org/x/sys/unix"

// topDir is FS_TOPDIR_FL of linux/fs.h.
const topDir = 0x00020000

// SpreadSubdirs tells the filesystem that the directories in this one have nothing to do with each other (chattr(1), T).
// ext4 then makes each in a group of blocks of its own. Otherwise all share one, and without a journal every new inode
// steps over all those that were deleted there in the last minutes. Filesystems that know no such flag answer with an error.
func (d *Folder) SpreadSubdirs() error {
	flags, err := unix.IoctlGetUint32(d.fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&topDir != 0 {
		return err
	}
	return unix.IoctlSetPointerInt(d.fd, unix.FS_IOC_SETFLAGS, int(flags|topDir))
}
