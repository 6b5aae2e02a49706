package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ProjectQuota is what the files of a project take on their filesystem, and what they may take at most: 0 is no limit.
type ProjectQuota struct {
	Bytes, Inodes       int64
	MaxBytes, MaxInodes int64
}

// QuotaState says what a filesystem does with projects.
type QuotaState struct{ Counts, Enforces bool }

// ErrNoMoreQuotas is NextProjectQuota's answer at the end.
const ErrNoMoreQuotas = unix.ENOENT

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

// FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR and FS_XFLAG_PROJINHERIT of linux/fs.h.
const (
	fsGetXattr   = 0x801c581f
	fsSetXattr   = 0x401c5820
	projectFlows = 0x200
)

// Project returns the project that the directory belongs to, 0 where nobody has chosen, and whether what is made in it
// belongs to that as well.
func (d *Folder) Project() (id uint32, inherited bool, err error) {
	var x fsxattr
	err = d.fsxattr(fsGetXattr, &x)
	return x.projid, x.xflags&projectFlows != 0, err
}

// SetProject puts the directory, and what will be made in it, into a project; 0 takes it out. What is in it stays where
// it is.
func (d *Folder) SetProject(id uint32) error {
	var x fsxattr
	if err := d.fsxattr(fsGetXattr, &x); err != nil {
		return err
	}
	x.projid = id
	x.xflags |= projectFlows
	if id == 0 {
		x.xflags &^= projectFlows
	}
	return d.fsxattr(fsSetXattr, &x)
}

func (d *Folder) fsxattr(request uintptr, x *fsxattr) error {
	return uninterrupted(func() error {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), request, uintptr(unsafe.Pointer(x)))
		return errno(e)
	})
}

// Commands of quotactl(2) for projects, and struct if_nextdqblk of linux/quota.h, of which struct if_dqblk is the beginning.
const (
	projectQuota  = 2 // PRJQUOTA
	quotaGet      = 0x800007
	quotaSet      = 0x800008
	quotaGetNext  = 0x800009
	quotaGetState = 'X'<<8 + 8
	validLimits   = 1 | 4 // QIF_BLIMITS, QIF_ILIMITS
	quotaBlock    = 1024  // bytes
)

type dqblk struct {
	blockHard, blockSoft, space, inodeHard, inodeSoft, inodes, blockTime, inodeTime uint64
	valid, id                                                                       uint32
}

func (q *dqblk) projectQuota() ProjectQuota {
	return ProjectQuota{Bytes: int64(q.space), Inodes: int64(q.inodes), MaxBytes: int64(q.blockHard) * quotaBlock, MaxInodes: int64(q.inodeHard)}
}

// ProjectQuotaState tells whether the directory's filesystem counts what projects take, and whether it keeps them to
// their limits. Filesystems and kernels without project quota, and those older than Linux 5.14, answer with an error.
func (d *Folder) ProjectQuotaState() (QuotaState, error) {
	// struct fs_quota_statv of linux/dqblk_xfs.h: its version, and two bytes further on its flags.
	var s struct {
		version int8
		_       int8
		flags   uint16
		_       [156]byte
	}
	s.version = 1
	if err := d.quotactl(quotaGetState, 0, unsafe.Pointer(&s)); err != nil {
		return QuotaState{}, err
	}
	return QuotaState{Counts: s.flags&(1<<4) != 0, Enforces: s.flags&(1<<5) != 0}, nil
}

// ProjectQuota returns what is known of a project on the directory's filesystem.
func (d *Folder) ProjectQuota(id uint32) (ProjectQuota, error) {
	var q dqblk
	err := d.quotactl(quotaGet, id, unsafe.Pointer(&q))
	if err == unix.ENOENT { // XFS has never seen it
		err = nil
	}
	return q.projectQuota(), err
}

// SetProjectLimits sets the most that a project may take, in bytes (which are rounded up to 1,024) and inodes; 0 is no limit.
// Those that it exceeds already keep it from growing.
func (d *Folder) SetProjectLimits(id uint32, bytes, inodes int64) error {
	q := dqblk{blockHard: uint64(bytes+quotaBlock-1) / quotaBlock, inodeHard: uint64(inodes), valid: validLimits}
	return d.quotactl(quotaSet, id, unsafe.Pointer(&q))
}

// NextProjectQuota returns the first project from id on that the filesystem keeps a record of, or ErrNoMoreQuotas.
func (d *Folder) NextProjectQuota(id uint32) (uint32, ProjectQuota, error) {
	var q dqblk
	err := d.quotactl(quotaGetNext, id, unsafe.Pointer(&q))
	return q.id, q.projectQuota(), err
}

// quotactl is quotactl_fd(2).
func (d *Folder) quotactl(cmd uintptr, id uint32, arg unsafe.Pointer) error {
	return uninterrupted(func() error {
		_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(d.fd), cmd<<8|projectQuota, uintptr(id), uintptr(arg), 0, 0)
		return errno(e)
	})
}

func errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
