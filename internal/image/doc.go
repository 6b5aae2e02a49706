// Package image turns names of images into root filesystems.
//
//	registry, archive, v1.Image ──▶ blobs/sha256 ──▶ layers/<diff id>/fs ──▶ snapshots/<key>/{upper,work}
//	                                (OCI layout)     (unpacked once)         (one container's root)
//
// On disk, below Config.Root:
//
//	images/oci-layout, index.json   an OCI image layout; each entry's org.opencontainers.image.ref.name
//	                                is a full name, "docker.io/library/busybox:1.36" or "…@sha256:…",
//	                                its berth.namespace who has it; none is k8s.io
//	images/blobs/sha256/<hex>       manifests, configurations, compressed layers
//	images/layers/<hex>/            one unpacked layer, named by its diff ID: fs/, layer.json, synced
//	images/signatures/<hex>         the signatures that an image was let in with, by its manifest's digest
//	images/ingest/                  what is being made; emptied by Open
//	images/trash/                   what is being deleted; emptied in the background
//	images/empty/                   the lower directory of an image without layers
//	images/                         itself is locked (flock) by the one process that has the store open
//	snapshots/<key>/                upper/, work/, snapshot.json; a project of its own where the filesystem
//	                                has project quota (package quota)
//
// Promises:
//   - What is at its final name is whole: bytes are synced before they are renamed into place, and
//     renamed before index.json names them. A layer's files are the exception that costs nothing: they
//     are synced after the pull, and a layer that a power cut met before that is unpacked again from
//     its (synced) blob.
//   - Every blob has been hashed; every layer's diff ID has been compared with the configuration's.
//   - An error leaves nothing half-made. A crash leaves it until the next Open.
//   - No layer can touch anything outside its own directory (package unpack).
//   - Everything is answered from memory, except what has to read file contents.
//   - A blob or layer in use by an image, a running pull or a snapshot is not collected, in whichever namespace.
//
// It never: mounts anything (it says what to mount), knows containers, pods or CRI, or takes the
// contents of an image's configuration for more than data.
//
// A layer that was packed without entries for its own parent directories gets them as 0755, root:root,
// as in every engine that unpacks layers by themselves.
package image
