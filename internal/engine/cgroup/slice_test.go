package cgroup

import "testing"

func TestSlicePath(t *testing.T) {
	for slice, want := range map[string]string{
		"berth.slice":          "/berth.slice",
		"kubepods-a-b_c.slice": "/kubepods.slice/kubepods-a.slice/kubepods-a-b_c.slice",
		"-.slice":              "/",
		"a--b.slice":           "", "-a.slice": "", "a-.slice": "", ".slice": "", "a": "", "a/b.slice": "", "a\n.slice": "",
	} {
		got, err := SlicePath(slice)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", slice, got, err)
		}
	}
	pod := SliceBelow("/berth.slice", "pod1-2")
	if pod != "/berth.slice/berth-pod1_2.slice" || !IsSlice(pod) || IsScope(pod) {
		t.Error(pod)
	}
}
