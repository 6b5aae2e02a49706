package client

import (
	"github.com/11f9778f/berth/internal/shim/fdstore"
	"github.com/11f9778f/berth/internal/sys"
)

// A shim's descriptors outlive it with us: see package fdstore. They must outlive a successor, too, that dies before it has
// told us which of them it keeps, or does not come to live at all.

// openVault holds what the group's shim keeps, in place of what an earlier one kept.
func (g *group) openVault() error {
	left := g.gather()
	vault, err := fdstore.Dial(g.fdSocket(), left)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.left = left
		return err
	}
	g.vault = vault
	return nil
}

// inheritance is what a dead shim's successor is to get: duplicates.
func (g *group) inheritance() (map[string]*sys.Held, error) {
	left := g.gather()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = left
	files := make(map[string]*sys.Held, len(left))
	for name, f := range left {
		dup, err := f.Dup()
		if err != nil {
			closeHeld(files)
			return nil, err
		}
		files[name] = dup
	}
	return files, nil
}

// gather takes what the vault holds, or what no vault got. Only who starts, or connects to, the group's one shim calls it.
func (g *group) gather() map[string]*sys.Held {
	g.mu.Lock()
	vault, left := g.vault, g.left
	g.vault, g.left = nil, nil
	g.mu.Unlock()
	if vault != nil {
		return vault.Take() // left went into it
	}
	return left
}

// closeVault lets go of all.
func (g *group) closeVault() {
	g.mu.Lock()
	vault, left := g.vault, g.left
	g.vault, g.left = nil, nil
	g.mu.Unlock()
	if vault != nil {
		vault.Close()
	}
	closeHeld(left)
}

func closeHeld(files map[string]*sys.Held) {
	for _, f := range files {
		f.Close()
	}
}
