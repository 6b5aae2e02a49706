package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/11f9778f/berth/internal/engine/cgroup"
	"github.com/11f9778f/berth/internal/sys"
)

func TestNamesFollowFromTheRunDirectory(t *testing.T) {
	if got := NamesFor(DefaultRun); got.Bridge != "berth0" || got.CgroupParent != "/berth" {
		t.Errorf("the machine's node is called %+v", got)
	}
	a, b := NamesFor("/tmp/a"), NamesFor("/tmp/b")
	if a == b || a == NamesFor(DefaultRun) {
		t.Errorf("two nodes share names: %+v, %+v", a, b)
	}
	if len(a.Bridge) > 15 || len(a.LinkPrefix) > 5 {
		t.Errorf("names are too long for links: %+v", a)
	}
}

func TestConfigKeepsWhatIsSaid(t *testing.T) {
	c := Config{Run: "/tmp/a", Names: Names{Bridge: "mine"}}.withDefaults()
	if c.Names.Bridge != "mine" || c.Names.Table != NamesFor("/tmp/a").Table {
		t.Errorf("names are %+v", c.Names)
	}
}

func TestSlicesOfNodesAreApart(t *testing.T) {
	a, b := Config{Run: DefaultRun, SystemdCgroup: true}.withDefaults(), Config{Run: "/tmp/a", SystemdCgroup: true}.withDefaults()
	if a.Names.CgroupParent != "/berth.slice" || !strings.HasPrefix(b.Names.CgroupParent, "/berth_") {
		t.Errorf("%s, %s", a.Names.CgroupParent, b.Names.CgroupParent)
	}
	for _, c := range []Config{a, b} { // one's slice must not be in the other's
		if path, err := cgroup.SlicePath(filepath.Base(c.Names.CgroupParent)); err != nil || path != c.Names.CgroupParent {
			t.Error(path, err)
		}
	}
}

func TestDiedKnowsALockThatNobodyHolds(t *testing.T) {
	run := t.TempDir()
	if Died(run) != "" {
		t.Error("a node died that never was")
	}
	lock, err := lockRun(run, VerbCRI)
	if err != nil {
		t.Fatal(err)
	}
	if Died(run) != "" {
		t.Error("a node that holds its lock has died")
	}
	if _, err := sys.LockFile(lockPath(run)); err == nil {
		t.Error("the lock was taken twice")
	}
	lock.Close()
	if Died(run) != VerbCRI {
		t.Error("a node that left its lock behind has not died")
	}
}

func TestClaimRefusesAPathTooLongForSockets(t *testing.T) {
	dir := t.TempDir()
	n := &Node{cfg: Config{Root: filepath.Join(dir, "root"), Run: filepath.Join(dir, strings.Repeat("x", 100))}}
	if err := n.claim(); err == nil || !strings.Contains(err.Error(), "--run") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(n.cfg.Run); err == nil {
		t.Error("the folder was made all the same")
	}
}
