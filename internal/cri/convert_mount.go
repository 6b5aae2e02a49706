package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/11f9778f/berth/internal/runtime"
)

func mount(m *runtimeapi.Mount) runtime.Mount {
	out := runtime.Mount{
		ContainerPath: m.GetContainerPath(), HostPath: m.GetHostPath(), ReadOnly: m.GetReadonly(),
		RecursiveReadOnly: m.GetRecursiveReadOnly(), Propagation: runtime.Propagation(m.GetPropagation()),
		Relabel: m.GetSelinuxRelabel(), Options: m.GetMountOptions(),
		UIDMap: mappings(m.GetUidMappings()), GIDMap: mappings(m.GetGidMappings()),
	}
	if img := m.GetImage(); img.GetImage() != "" {
		out.Image = &runtime.ImageVolume{Image: img.GetImage(), SubPath: m.GetImageSubPath()}
	}
	return out
}

func criMount(m runtime.Mount) *runtimeapi.Mount {
	out := &runtimeapi.Mount{
		ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly || m.Image != nil,
		RecursiveReadOnly: m.RecursiveReadOnly, Propagation: runtimeapi.MountPropagation(m.Propagation),
		SelinuxRelabel: m.Relabel, MountOptions: m.Options, UidMappings: criMappings(m.UIDMap), GidMappings: criMappings(m.GIDMap),
	}
	if v := m.Image; v != nil {
		out.Image, out.ImageSubPath = &runtimeapi.ImageSpec{Image: v.Image, ImageRef: v.Ref}, v.SubPath
	}
	return out
}

func mappings(list []*runtimeapi.IDMapping) []runtime.IDMapping {
	var out []runtime.IDMapping
	for _, m := range list {
		out = append(out, runtime.IDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Length: m.GetLength()})
	}
	return out
}

func criMappings(list []runtime.IDMapping) []*runtimeapi.IDMapping {
	var out []*runtimeapi.IDMapping
	for _, m := range list {
		out = append(out, &runtimeapi.IDMapping{ContainerId: m.ContainerID, HostId: m.HostID, Length: m.Length})
	}
	return out
}
