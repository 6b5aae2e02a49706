package server

import (
	"io"
	"os"
	"syscall"

	"github.com/11f9778f/berth/internal/shim/api"
	"github.com/11f9778f/berth/internal/sys"
)

// openInput returns what the process reads.
func (p *process) openInput(uri string, uid, gid int) (*os.File, error) {
	path := uri
	switch uri {
	case "":
		return nil, nil
	case api.SchemeAttach:
		path = p.fifo("stdin")
		p.stdio.made = append(p.stdio.made, path)
	}
	if err := sys.MakeFIFO(path, 0o600, uid, gid); err != nil {
		return nil, err
	}
	theirs, err := sys.OpenFIFOReader(path)
	if err != nil {
		return nil, err
	}
	if uri == api.SchemeAttach {
		err = p.keepInput(path)
	} else {
		// The same description: one that was opened a moment later might not know of a client that has come and gone.
		p.stdio.probe, err = sys.Dup(theirs)
	}
	if err != nil {
		theirs.Close()
		return nil, err
	}
	return theirs, nil
}

// keepInput holds the FIFO of the input open for writing, so that the process sees no end before CloseIO.
func (p *process) keepInput(path string) error {
	keep, err := sys.OpenFIFO(path, syscall.O_RDWR)
	if err != nil {
		return err
	}
	p.stdio.input = keep
	p.hold("stdin", keep)
	return nil
}

// settleInput decides about the input of a process that is about to run: a client that has come and gone by then
// ("echo x | ctr run") will not call CloseIO.
func (p *process) settleInput(path string) error {
	p.stdio.mu.Lock()
	defer p.stdio.mu.Unlock()
	probe := p.stdio.probe
	if probe == nil {
		return nil
	}
	p.stdio.probe = nil
	defer probe.Close()
	if p.stdio.inputEnded || sys.HungUp(probe) {
		return nil
	}
	return p.keepInput(path)
}

// closeInput lets the process see the end of its input.
func (p *process) closeInput() {
	p.stdio.mu.Lock()
	defer p.stdio.mu.Unlock()
	p.stdio.inputEnded = true
	if p.stdio.input != nil {
		if p.execID == "" {
			p.t.s.keeper.Drop(p.t.rec.ID + "/stdin")
		}
		p.stdio.input.Close()
		p.stdio.input = nil
	}
}

// typeInto copies from a FIFO of the caller's to the terminal.
func (s *stdio) typeInto(path string) error {
	master, err := sys.Dup(s.console)
	if err != nil {
		return err
	}
	// Open for both: no end is seen while the other side has not come yet.
	fifo, err := sys.OpenFIFO(path, syscall.O_RDWR|syscall.O_NONBLOCK)
	if err != nil {
		master.Close()
		return err
	}
	s.copies = append(s.copies, master, fifo)
	go func() {
		io.Copy(master, onlyReader{fifo})
		closeAll(master, fifo)
	}()
	return nil
}

// onlyReader hides what makes io.Copy use a system call that terminals refuse.
type onlyReader struct{ io.Reader }
