package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/11f9778f/berth/internal/checkpoint"
	"github.com/11f9778f/berth/internal/image/unpack"
)

// CheckpointPod writes a checkpoint of running containers of a sandbox, all of the same moment, into the folder dir,
// which must be empty; after an error it is so again. All of them are paused before the first is written and run on
// once the last is. Without a deadline of ctx it may take 5 minutes.
func (r *Runtime) CheckpointPod(ctx context.Context, sandboxID, dir string, ids []string) error {
	sb := r.sandbox(sandboxID)
	if sb == nil || sb.get().State != SandboxReady && sb.get().State != SandboxStopped {
		return fmt.Errorf("checkpoint sandbox %s: %w", short(sandboxID), errdefs.ErrNotFound)
	}
	if st := sb.get().State; st != SandboxReady {
		return fmt.Errorf("checkpoint sandbox %s: it is %s: %w", short(sandboxID), st, errdefs.ErrFailedPrecondition)
	}
	if err := checkpoint.CheckEmpty(dir); err != nil {
		return invalid("checkpoint sandbox %s: folder: %v", short(sandboxID), err)
	}
	list, err := r.members(sb, ids)
	if err != nil {
		return fmt.Errorf("checkpoint sandbox %s: %w", short(sandboxID), err)
	}
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	work, end := context.WithDeadline(sb.life, deadline)
	stop := context.AfterFunc(ctx, end)
	op := sb.saving.do(func() error {
		defer end()
		defer stop()
		return r.savePod(work, sb, list, dir)
	})
	// The caller is answered when all containers run again, and that is soon after its deadline.
	if err := op.wait(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("checkpoint sandbox %s: %w", short(sandboxID), err)
	}
	return nil
}

// members are the running containers of a sandbox that a caller names, each once.
func (r *Runtime) members(sb *sandbox, ids []string) ([]*container, error) {
	if len(ids) == 0 {
		return nil, invalid("no container is named")
	}
	var list []*container
	for _, id := range ids {
		c, _, err := r.running(id)
		if err != nil {
			return nil, err
		}
		if c.sb != sb {
			return nil, invalid("container %s belongs to another sandbox", short(id))
		}
		if slices.Contains(list, c) {
			return nil, invalid("container %s is named twice", short(id))
		}
		list = append(list, c)
	}
	return list, nil
}

// savePod makes the folder whole or empty.
func (r *Runtime) savePod(ctx context.Context, sb *sandbox, list []*container, dir string) (err error) {
	st := sb.get()
	pod := checkpoint.Pod{Name: st.Spec.Name, Namespace: st.Spec.Namespace, UID: st.Spec.UID, Shm: st.Spec.Namespaces.IPC != NamespaceNode}
	at := map[*container]string{}
	for i, c := range list {
		name := checkpoint.ArchiveName(i)
		at[c] = filepath.Join(dir, name)
		pod.Containers = append(pod.Containers, checkpoint.PodContainer{Name: c.get().Spec.Name, Archive: name})
	}
	defer func() {
		if err == nil {
			return
		}
		for _, name := range append(slices.Collect(maps.Values(at)), filepath.Join(dir, checkpoint.ShmFile), filepath.Join(dir, checkpoint.PodFile)) {
			if rerr := os.Remove(name); !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, rerr)
			}
		}
	}()
	shared := func(ctx context.Context) error {
		if !pod.Shm {
			return nil
		}
		return writeLayer(ctx, filepath.Join(dir, checkpoint.ShmFile), filepath.Join(r.store.podDir(sb.id), "shm"))
	}
	if err := r.saveContainers(ctx, list, shared, func(c *container) string { return at[c] }); err != nil {
		return err
	}
	return checkpoint.WritePod(ctx, dir, pod)
}

// RestoredContainer is a container that RestorePod has made, by its name.
type RestoredContainer struct{ Name, ID string }

// RestorePod makes a sandbox and containers of the checkpoint of a pod in the folder dir, which is not changed. The
// containers are created; StartContainer lets them run on. After an error nothing of what the call has made is left.
func (r *Runtime) RestorePod(ctx context.Context, dir string, spec SandboxSpec, list []ContainerSpec) (id string, made []RestoredContainer, err error) {
	pod, archives, err := podArchives(dir, list)
	if err != nil {
		return "", nil, fmt.Errorf("restore pod: %w", err)
	}
	r.mu.RLock()
	fresh := r.names[spec.key()] == nil
	r.mu.RUnlock()
	sandbox, err := r.RunSandbox(ctx, spec)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err == nil || !fresh {
			return
		}
		uctx, cancel := r.undoContext(ctx)
		defer cancel()
		if rerr := r.RemoveSandbox(uctx, sandbox); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	if pod.Shm && fresh && spec.Namespaces.IPC != NamespaceNode {
		if err := r.fillShm(ctx, sandbox, filepath.Join(dir, checkpoint.ShmFile)); err != nil {
			return "", nil, fmt.Errorf("restore pod: %w", err)
		}
	}
	made = make([]RestoredContainer, len(list))
	var g errgroup.Group
	g.SetLimit(4)
	for i, c := range list {
		c.Checkpoint = CheckpointSource{Path: archives[c.Name]}
		g.Go(func() error {
			cid, err := r.CreateContainer(ctx, sandbox, c)
			made[i] = RestoredContainer{c.Name, cid}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return "", nil, err
	}
	return sandbox, made, nil
}

// podArchives finds the archive of each container; the names must be exactly those of the checkpoint.
func podArchives(dir string, list []ContainerSpec) (checkpoint.Pod, map[string]string, error) {
	if !filepath.IsAbs(dir) {
		return checkpoint.Pod{}, nil, invalid("checkpoint folder %q is no absolute path", dir)
	}
	pod, err := checkpoint.ReadPod(dir)
	if err != nil {
		return pod, nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	archives := map[string]string{}
	for _, c := range pod.Containers {
		archives[c.Name] = filepath.Join(dir, c.Archive)
	}
	seen := map[string]bool{}
	for _, c := range list {
		if c.Name == "" || seen[c.Name] || archives[c.Name] == "" {
			return pod, nil, invalid("container %q: the checkpoint has no such container, or it is named twice", c.Name)
		}
		seen[c.Name] = true
	}
	if len(seen) != len(archives) {
		return pod, nil, invalid("the checkpoint has %d containers, %d are named", len(archives), len(seen))
	}
	return pod, archives, nil
}

// fillShm unpacks the shared memory of a pod that nobody uses yet. The mount's size bounds it.
func (r *Runtime) fillShm(ctx context.Context, id, archive string) error {
	f, err := checkpoint.Open(archive)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer f.Close()
	if _, err := unpack.Apply(ctx, filepath.Join(r.store.podDir(id), "shm"), f, unpack.Limits{}); err != nil {
		return fmt.Errorf("%s: %w: %w", checkpoint.ShmFile, err, errdefs.ErrInvalidArgument)
	}
	return nil
}
