package crilog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/11f9778f/berth/internal/sys"
)

const (
	// spoolBase is where a spool's bytes begin, behind the page of its record.
	spoolBase = 4096
	// maxMove bounds one splice.
	maxMove = 64 << 10
	// spoolReset is the length from which on a spool with nothing waiting is emptied.
	//
	// Invariant: spoolReset > 2*maxMove + MaxLine. It makes a record that was written before the spool was
	// emptied recognizable: what it calls logged lies behind the spool's end until a new record is written.
	spoolReset = 256 << 10
)

// pending is an append to the log that was announced before it was begun.
type pending struct {
	upTo   int64  // offset in the spool behind the bytes that it covers; 0 if there is none
	inode  uint64 // of the log file
	size   int64  // of the log file before the append
	length int64  // of the records appended
}

// record is what the first page of a spool holds.
type record struct {
	logged  int64 // offset in the spool below which everything is in the log
	pending pending
}

var (
	recordMagic  = [8]byte{'b', 'e', 'r', 't', 'h', 'l', 'g', '1'}
	errBadRecord = errors.New("not the record of a log spool")
)

const recordLen = 8 + 5*8

func (r record) marshal() []byte {
	b := make([]byte, 0, recordLen)
	b = append(b, recordMagic[:]...)
	for _, v := range []uint64{uint64(r.logged), uint64(r.pending.upTo), r.pending.inode, uint64(r.pending.size), uint64(r.pending.length)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// parseRecord reads a record. Zeros are the record of a spool that has not logged anything yet.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordLen {
		return record{}, errBadRecord
	}
	if [recordLen]byte(b) == [recordLen]byte{} {
		return record{logged: spoolBase}, nil
	}
	if [8]byte(b) != recordMagic {
		return record{}, errBadRecord
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8+8*i:]) }
	r := record{logged: int64(at(0)), pending: pending{int64(at(1)), at(2), int64(at(3)), int64(at(4))}}
	p := r.pending
	if r.logged < spoolBase || p.upTo != 0 && (p.upTo < r.logged || p.size < 0 || p.length < 0 || p.size+p.length < p.size) {
		return record{}, errBadRecord
	}
	return r, nil
}

// spool is the file between a FIFO and a log.
type spool struct {
	f      *os.File
	logged int64 // Invariant: spoolBase <= logged <= end
	end    int64
}

// openSpool opens or makes the spool at path and settles with the log what a killed writer left half-done.
// A spool whose record makes no sense is kept from its beginning: rather a line twice than none.
func openSpool(path string, l *Log) (*spool, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log spool: %w", err)
	}
	_, size, err := sys.Inode(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log spool: %w", err)
	}
	s := &spool{f: f, logged: spoolBase, end: max(size, spoolBase)}
	if size == 0 {
		return s, nil
	}
	var page [recordLen]byte
	if _, err := f.ReadAt(page[:], 0); err != nil && err != io.EOF {
		f.Close()
		return nil, fmt.Errorf("read log spool: %w", err)
	}
	r, perr := parseRecord(page[:])
	if perr == nil {
		s.logged = s.settle(r, l)
	}
	return s, nil
}

func (s *spool) settle(r record, l *Log) int64 {
	logged := r.logged
	if r.pending.upTo != 0 {
		if done, _ := l.settle(r.pending); done {
			logged = r.pending.upTo
		}
	}
	if logged > s.end {
		return spoolBase // the spool was emptied after this record
	}
	return logged
}

// announce records, before an append to the log, what it will cover.
func (s *spool) announce(upTo int64, inode uint64, size, length int64) error {
	r := record{logged: s.logged, pending: pending{upTo: upTo, inode: inode, size: size, length: length}}
	_, err := s.f.WriteAt(r.marshal(), 0)
	return err
}

// trim empties the spool if it is long and nothing in it waits.
func (s *spool) trim() {
	if s.logged == s.end && s.end-spoolBase > spoolReset && s.f.Truncate(spoolBase) == nil {
		s.logged, s.end = spoolBase, spoolBase
		_, _ = s.f.WriteAt(record{logged: spoolBase}.marshal(), 0) // without it, settle recognizes the old one
	}
}
