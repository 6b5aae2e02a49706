package kubelet

import (
	"context"
	"time"

	"github.com/11f9778f/berth/internal/kubelet/imagegc"
	"github.com/11f9778f/berth/internal/sys"
)

// collectImages keeps the images' filesystem from filling, until ctx ends.
func (k *Kubelet) collectImages(ctx context.Context) {
	images, ok := k.cfg.Images.(imagegc.Images)
	if !ok || k.cfg.ImageGC.Period <= 0 {
		return
	}
	c := imagegc.Collector{
		Images: images, Containers: k.cfg.Runtime, Policy: k.cfg.ImageGC, Space: space, Log: k.cfg.Logger, Now: time.Now,
	}
	c.Run(ctx)
}

// space measures the filesystem below path in bytes.
func space(path string) (capacity, available int64, err error) {
	d, err := sys.OpenFolder(path)
	if err != nil {
		return 0, 0, err
	}
	defer d.Close()
	sp, err := d.Space()
	return sp.Bytes, sp.BytesFree, err
}
