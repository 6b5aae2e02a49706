package imagegc

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// world is a runtime with a disk of 1000 bytes.
type world struct {
	images     []*runtimeapi.Image
	containers []*runtimeapi.Container
	now        time.Time
	other      int64 // used by others
}

func (w *world) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: w.images}, nil
}

func (w *world) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/disk"}}}}, nil
}

func (w *world) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	for i, img := range w.images {
		if img.Id == r.Image.Image {
			w.images = append(w.images[:i:i], w.images[i+1:]...)
			break
		}
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

func (w *world) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: w.containers}, nil
}

func (w *world) space(string) (int64, int64, error) {
	used := w.other
	for _, i := range w.images {
		used += int64(i.Size)
	}
	return 1000, 1000 - used, nil
}

func (w *world) ids() string {
	var ids []string
	for _, i := range w.images {
		ids = append(ids, i.Id)
	}
	return strings.Join(ids, " ")
}

func TestCollect(t *testing.T) {
	ctx := context.Background()
	w := &world{now: time.Unix(1e9, 0), other: 100}
	c := &Collector{
		Images: w, Containers: w, Space: w.space, Now: func() time.Time { return w.now }, Log: slog.New(slog.DiscardHandler),
		Policy: Policy{HighPercent: 85, LowPercent: 60, MinAge: 2 * time.Minute},
	}
	step := func(d time.Duration, want, sentence string) {
		t.Helper()
		w.now = w.now.Add(d)
		err := c.Collect(ctx)
		if (err == nil) != (sentence == "") || err != nil && !strings.Contains(err.Error(), sentence) {
			t.Errorf("%v, want %q", err, sentence)
		}
		if w.ids() != want {
			t.Errorf("left: %q, want %q", w.ids(), want)
		}
	}
	add := func(id string, size uint64, pinned bool) {
		w.images = append(w.images, &runtimeapi.Image{Id: id, Size: size, Pinned: pinned, RepoTags: []string{"name-of-" + id}})
	}
	add("pinned", 100, true)
	add("used", 100, false)
	add("a", 200, false)
	add("b", 200, false)
	w.containers = []*runtimeapi.Container{{ImageRef: "used"}, {Image: &runtimeapi.ImageSpec{Image: "name-of-a"}}}
	step(0, "pinned used a b", "") // 70 %
	step(time.Hour, "pinned used a b", "")
	w.containers = w.containers[:1]
	add("new", 250, false) // 95 %, and the new one is too young to go: b was never used, a until now
	step(time.Second, "pinned used a new", "150 more bytes")
	step(2*time.Minute, "pinned used a new", "") // 75 %: below the high mark
	w.other += 100                               // 85 %
	step(2*time.Minute, "pinned used", "")
	w.other += 500
	step(time.Hour, "pinned used", "should be free")
	c.Policy.HighPercent = 100
	step(0, "pinned used", "")
	add("old", 1, false)
	c.Policy.MaxAge = time.Hour
	step(0, "pinned used old", "")
	step(time.Hour+time.Second, "pinned used", "")
}
