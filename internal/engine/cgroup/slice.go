package cgroup

import (
	"fmt"
	"path"
	"strings"
)

// A slice is a unit of systemd's that holds other units. Its name tells where its cgroup is: "a-b.slice" is in
// "a.slice" (systemd.slice(5)).

// SlicePath is the cgroup of a slice: "/a.slice/a-b.slice" for "a-b.slice".
func SlicePath(slice string) (string, error) {
	stem, ok := strings.CutSuffix(slice, ".slice")
	if !ok || strings.ContainsAny(slice, "/\x00\n") || len(slice) > 255 {
		return "", fmt.Errorf("bad name of a slice %q", slice)
	}
	if stem == "-" {
		return "/", nil
	}
	whole, prefix := "", ""
	for part := range strings.SplitSeq(stem, "-") {
		if part == "" {
			return "", fmt.Errorf("bad name of a slice %q", slice)
		}
		prefix += part
		whole += "/" + prefix + ".slice"
		prefix += "-"
	}
	return whole, nil
}

// SliceBelow is the cgroup of a slice inside the one whose cgroup is parent. Dashes in its name become underscores, as
// the kubelet has it: they would make further slices.
func SliceBelow(parent, name string) string {
	stem := strings.TrimSuffix(path.Base(parent), ".slice")
	return path.Join(parent, stem+"-"+strings.ReplaceAll(name, "-", "_")+".slice")
}

// IsSlice tells whether a cgroup is one of a slice, by its name.
func IsSlice(cgroup string) bool { return strings.HasSuffix(cgroup, ".slice") }

// IsScope tells whether a cgroup is one of a scope, which is a unit of systemd's that holds processes.
func IsScope(cgroup string) bool { return strings.HasSuffix(cgroup, ".scope") }
