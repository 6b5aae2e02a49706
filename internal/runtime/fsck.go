package runtime

import (
	"context"
	"os"
	"path"
	goruntime "runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Finding is one thing on disk or in the kernel, and what became of it.
type Finding struct {
	Resource
	// Repaired is set if it was removed, Error if that failed.
	Repaired bool   `json:"repaired,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Report is the balance between the journals and the machine.
type Report struct {
	// Owned lists what belongs to a sandbox or container, by owner.
	Owned map[string][]Resource `json:"owned"`
	// Pending belongs to sandboxes that are being made or unmade, or wait for a shim's answer.
	Pending map[string][]Resource `json:"pending,omitempty"`
	// Orphans belong to nobody. A clean node has none.
	Orphans []Finding `json:"orphans,omitempty"`
}

// Clean tells that nothing is without an owner.
func (r *Report) Clean() bool { return len(r.Orphans) == 0 }

// Fsck lists everything that Berth has on disk and in the kernel, by owner, and names what has none;
// with repair it removes that. Layers and blobs are the image room's own affair.
//
// Kernel and shims end some things a moment after they were told to (a link goes with its namespace,
// which the kernel frees in its own time): what is without an owner is looked at again for a second
// before it is called an orphan.
func (r *Runtime) Fsck(ctx context.Context, repair bool) (*Report, error) {
	const patience, pause = time.Second, 50 * time.Millisecond
	for end := time.Now().Add(patience); ; {
		rep, err := r.balance(ctx)
		if err != nil {
			return nil, err
		}
		if rep.Clean() || repair || time.Now().After(end) {
			if repair {
				r.repairAll(ctx, rep)
			}
			return rep, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// balance compares once.
func (r *Runtime) balance(ctx context.Context) (*Report, error) {
	found, err := r.inventory(ctx)
	if err != nil {
		return nil, err
	}
	rep := &Report{Owned: map[string][]Resource{}, Pending: map[string][]Resource{}}
	for _, x := range found {
		switch r.ownership(x.Owner) {
		case owned:
			rep.Owned[x.Owner] = append(rep.Owned[x.Owner], x)
		case pending:
			rep.Pending[x.Owner] = append(rep.Pending[x.Owner], x)
		default:
			rep.Orphans = append(rep.Orphans, Finding{Resource: x})
		}
	}
	return rep, nil
}

// repairAll removes the orphans. Cgroups go first: what is killed there may hold the rest.
func (r *Runtime) repairAll(ctx context.Context, rep *Report) {
	sort.SliceStable(rep.Orphans, func(i, j int) bool { return repairOrder(rep.Orphans[i].Kind) < repairOrder(rep.Orphans[j].Kind) })
	for i := range rep.Orphans {
		f := &rep.Orphans[i]
		if err := r.repair(ctx, f.Resource); err != nil {
			f.Error = err.Error()
		} else {
			f.Repaired = true
			r.repaired.Add(1)
		}
	}
}

// Repaired is how many things without an owner were removed since Open, those at Open among them.
func (r *Runtime) Repaired() uint64 { return r.repaired.Load() }

type ownership int

const (
	nobody ownership = iota
	owned
	pending
)

// ownership looks an ID up among sandboxes, containers and what journals still have to undo.
func (r *Runtime) ownership(id string) ownership {
	if id == "" {
		return nobody
	}
	if sb := r.sandbox(id); sb != nil {
		if s := sb.get().State; s == SandboxReady || s == SandboxStopped {
			return owned
		}
		return pending
	}
	if c := r.container(id); c != nil {
		if c.get().listed() {
			return owned
		}
		return pending
	}
	for _, sb := range r.everySandbox() {
		if len(sb.ledger.live(id)) > 0 {
			return pending
		}
	}
	return nobody
}

// Kinds of resources that the runtime deals with itself; all others are the network's.
const (
	resCgroup   = "cgroup"
	resProcess  = "process"
	resMount    = "mount"
	resSnapshot = "snapshot"
	resBundle   = "bundle"
	resPodDir   = "pod-dir"
	resVolume   = "volume"
	resUserNS   = "userns"
	resRecord   = "record"
	resShim     = "shim"
	resShimFile = "shim-file" // below the shims' folder, of no group
)

func repairOrder(kind string) int {
	switch kind {
	case resProcess, resCgroup:
		return 0
	case resShim, resShimFile:
		return 1
	case resMount:
		return 2
	case "netns":
		return 4
	}
	return 3
}

// inventory collects from every room, from all at the same time: a daemon that starts waits for it.
func (r *Runtime) inventory(ctx context.Context) ([]Resource, error) {
	rooms := []func(context.Context) ([]Resource, error){
		r.cgroups, r.cfg.Network.Inventory, r.cfg.Shims.Inventory, r.mounts, r.snapshots, r.folders,
	}
	found := make([][]Resource, len(rooms))
	g, ctx := errgroup.WithContext(ctx)
	for i, room := range rooms {
		g.Go(func() (err error) { found[i], err = room(ctx); return err })
	}
	err := g.Wait()
	return slices.Concat(found...), err
}

// cgroups lists pods' and containers' cgroups below our parent and the processes in them.
func (r *Runtime) cgroups(ctx context.Context) ([]Resource, error) {
	k := r.cfg.Kernel
	pods, err := k.Cgroups(ctx, r.cfg.CgroupParent)
	if err != nil {
		return nil, err
	}
	byPath := map[string]string{}
	for _, sb := range r.everySandbox() {
		for _, e := range sb.ledger.live("") {
			if e.Kind == kindCgroup {
				byPath[e.Args["path"]] = sb.id
			}
		}
	}
	found := make([][]Resource, len(pods))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(goruntime.GOMAXPROCS(0))
	for i, pod := range pods {
		g.Go(func() (err error) { found[i], err = r.podCgroups(ctx, pod, byPath[pod]); return err })
	}
	err = g.Wait()
	return slices.Concat(found...), err
}

// podCgroups lists a pod's cgroup and what is in it.
func (r *Runtime) podCgroups(ctx context.Context, pod, owner string) ([]Resource, error) {
	k := r.cfg.Kernel
	out := []Resource{{Kind: resCgroup, Name: pod, Owner: owner}}
	children, err := k.Cgroups(ctx, pod)
	if err != nil {
		return nil, err
	}
	for _, c := range children {
		owner := containerOf(c)
		if r.ownership(owner) == nobody {
			owner = ""
		}
		out = append(out, Resource{Kind: resCgroup, Name: c, Owner: owner})
		pids, err := k.Processes(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			out = append(out, Resource{Kind: resProcess, Name: processName(pid), Owner: owner})
		}
	}
	return out, nil
}

// mounts lists mount points below the pods' folders, image volumes and bundles. Those of shims and network are theirs.
func (r *Runtime) mounts(ctx context.Context) ([]Resource, error) {
	var out []Resource
	for _, dir := range []string{r.store.path("pods"), r.store.path("volumes"), r.store.path("userns"), r.store.bundles} {
		points, err := r.cfg.Kernel.Mounts(ctx, dir)
		if err != nil {
			return nil, err
		}
		for _, p := range points {
			owner, _, _ := strings.Cut(strings.TrimPrefix(p, dir+"/"), "/")
			out = append(out, Resource{Kind: resMount, Name: p, Owner: owner})
		}
	}
	return out, nil
}

func (r *Runtime) snapshots(ctx context.Context) ([]Resource, error) {
	keys, err := r.cfg.Images.Keys(ctx)
	var out []Resource
	for _, k := range keys {
		owner, _, _ := strings.Cut(k, ".") // what follows it is the number of an image volume
		out = append(out, Resource{Kind: resSnapshot, Name: k, Owner: owner})
	}
	return out, err
}

// folders lists bundles, pod folders and records by the ID that they are named for.
func (r *Runtime) folders(context.Context) ([]Resource, error) {
	var out []Resource
	for _, x := range []struct{ kind, dir, suffix string }{
		{resBundle, r.store.bundles, ""}, {resPodDir, r.store.path("pods"), ""}, {resVolume, r.store.path("volumes"), ""},
		{resUserNS, r.store.path("userns"), ""},
		{resRecord, r.store.path("sandboxes"), ".json"}, {resRecord, r.store.path("containers"), ".json"},
	} {
		entries, err := os.ReadDir(x.dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			out = append(out, Resource{Kind: x.kind, Name: path.Join(x.dir, e.Name()), Owner: strings.TrimSuffix(e.Name(), x.suffix)})
		}
	}
	return out, nil
}

// repair removes one orphan.
func (r *Runtime) repair(ctx context.Context, x Resource) error {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	switch x.Kind {
	case resCgroup:
		return r.cfg.Kernel.RemoveCgroup(ctx, x.Name)
	case resProcess:
		return nil // its cgroup's removal ends it
	case resMount:
		return r.cfg.Kernel.Unmount(ctx, x.Name)
	case resSnapshot:
		return r.cfg.Images.Remove(ctx, x.Name)
	case resBundle, resPodDir, resVolume, resUserNS, resRecord:
		return os.RemoveAll(x.Name)
	}
	if x.Kind == resShimFile {
		return r.removeTree(ctx, x.Name)
	}
	if x.Kind == resShim {
		return r.cfg.Shims.Release(ctx, x.Owner)
	}
	return r.cfg.Network.Repair(ctx, func(id string) bool { return r.ownership(id) != nobody })
}

// removeTree removes a folder that may hold pinned namespaces.
func (r *Runtime) removeTree(ctx context.Context, dir string) error {
	points, err := r.cfg.Kernel.Mounts(ctx, dir)
	if err != nil {
		return err
	}
	for _, p := range points {
		if err := r.cfg.Kernel.Unmount(ctx, p); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func processName(pid int) string {
	comm, err := os.ReadFile(path.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return strconv.Itoa(pid)
	}
	return strconv.Itoa(pid) + " " + strings.TrimSpace(string(comm))
}
