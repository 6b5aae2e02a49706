package cgroup

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (g *Group) applyBlockIO(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil || !given(b.Weight) && !given(b.LeafWeight) && len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+
		len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) == 0 {
		return nil
	}
	room, err := g.room("blkio", "io")
	if err != nil {
		return err
	}
	if room.h.V2 {
		return room.setIOV2(b)
	}
	return room.setIOV1(b)
}

func (r room) setIOV1(b *specs.LinuxBlockIO) error {
	prefix := "blkio."
	if !r.has("blkio.weight") && r.has("blkio.bfq.weight") { // CFQ went with Linux 5.0, BFQ has its own files
		prefix = "blkio.bfq."
	}
	if given(b.Weight) {
		if err := r.set(prefix+"weight", number(*b.Weight)); err != nil {
			return err
		}
	}
	if given(b.LeafWeight) {
		if err := r.set("blkio.leaf_weight", number(*b.LeafWeight)); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if given(d.Weight) {
			if err := r.set(prefix+"weight_device", device(d.LinuxBlockIODevice, *d.Weight)); err != nil {
				return err
			}
		}
		if given(d.LeafWeight) {
			if err := r.set("blkio.leaf_weight_device", device(d.LinuxBlockIODevice, *d.LeafWeight)); err != nil {
				return err
			}
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			if err := r.set(t.v1, device(d.LinuxBlockIODevice, d.Rate)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r room) setIOV2(b *specs.LinuxBlockIO) error {
	if given(b.LeafWeight) {
		return fmt.Errorf("%w: cgroup v2 has no leaf weight", ErrUnsupported)
	}
	// BFQ's weights are v1's, 1 to 1000; the io controller's own go to 10000.
	file, weight := "io.weight", func(w uint16) uint64 { return 1 + (uint64(max(w, 10))-10)*9999/990 }
	if r.has("io.bfq.weight") {
		file, weight = "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	}
	if given(b.Weight) {
		if err := r.set(file, number(weight(*b.Weight))); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if given(d.LeafWeight) {
			return fmt.Errorf("%w: cgroup v2 has no leaf weight", ErrUnsupported)
		}
		if given(d.Weight) {
			if err := r.set(file, device(d.LinuxBlockIODevice, weight(*d.Weight))); err != nil {
				return err
			}
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = number(d.Rate)
			}
			if err := r.set("io.max", device(d.LinuxBlockIODevice, t.v2+"="+rate)); err != nil {
				return err
			}
		}
	}
	return nil
}

type throttle struct {
	v1, v2  string // file of v1, key in v2's io.max
	devices []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func device[T uint16 | uint64 | string](d specs.LinuxBlockIODevice, value T) string {
	return fmt.Sprintf("%d:%d %v", d.Major, d.Minor, value)
}
