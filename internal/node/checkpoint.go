package node

import (
	"errors"
	"net/http"
	"slices"

	"github.com/11f9778f/berth/internal/runtime"
)

// serveCheckpoint writes a checkpoint of a pod that is ready.
func (n *Node) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	namespace, pod, names := r.PathValue("namespace"), r.PathValue("pod"), r.URL.Query()["container"]
	for _, sb := range n.runtime.Sandboxes() {
		if sb.Spec.Namespace != namespace || sb.Spec.Name != pod || sb.State != runtime.SandboxReady {
			continue
		}
		ids, names, err := n.chosen(sb.ID, names)
		folder := r.URL.Query().Get("folder")
		if err == nil {
			err = n.runtime.CheckpointPod(r.Context(), sb.ID, folder, ids)
		}
		answer(w, Checkpoint{Pod: namespace + "/" + pod, Folder: folder, Containers: names}, err)
		return
	}
	refuse(w, http.StatusNotFound, errors.New("no pod "+namespace+"/"+pod+" is running on this node"))
}

// chosen are the running containers of a sandbox that have one of the names, or all where there are no names.
func (n *Node) chosen(sandbox string, names []string) (ids, found []string, err error) {
	for _, c := range n.runtime.Containers(sandbox) {
		if c.State == runtime.ContainerRunning && (len(names) == 0 || slices.Contains(names, c.Spec.Name)) {
			ids, found = append(ids, c.ID), append(found, c.Spec.Name)
		}
	}
	for _, name := range names {
		if !slices.Contains(found, name) {
			return nil, nil, errors.New("no container " + name + " of the pod is running")
		}
	}
	if len(ids) == 0 {
		return nil, nil, errors.New("no container of the pod is running")
	}
	return ids, found, nil
}
