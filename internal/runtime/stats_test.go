package runtime

import (
	"errors"
	"io/fs"
	"testing"
	"time"
)

// scriptedKernel hands out meters that read what the script says.
type scriptedKernel struct {
	fakeKernel
	open  int
	stats Stats
	err   error
}

func (k *scriptedKernel) Meter(string, bool) (Meter, error) { k.open++; return k, nil }
func (k *scriptedKernel) Read() (Stats, error)              { return k.stats, k.err }
func (k *scriptedKernel) Files() int                        { return 7 }
func (k *scriptedKernel) Close()                            { k.open-- }

func TestRateOfCPUUse(t *testing.T) {
	k := &scriptedKernel{}
	all := newGauges(k, func() int64 { return 0 })
	born := time.Unix(1000, 0)
	var g gauge
	for _, x := range []struct {
		after time.Duration // since birth
		cpu   uint64
		want  uint64
	}{
		{2 * time.Second, 1e9, 5e8},           // the average of its life
		{2*time.Second + 1e6, 9e9, 5e8},       // too soon for another rate
		{4 * time.Second, 5e9, 2e9},           // of the last two seconds
		{5 * time.Second, 5e9, 0},             // it rests
		{5*time.Second + 2e8, 5e9 + 1e8, 5e8}, // and runs again
		{6 * time.Second, 4e9, 0},             // a counter that goes back is no use
	} {
		k.stats = Stats{At: born.Add(x.after), CPUNanos: x.cpu}
		s, err := g.read(all, "/x", true, born)
		if err != nil || s.CPURate != x.want {
			t.Errorf("after %v: %d, %v; want %d", x.after, s.CPURate, err, x.want)
		}
	}
	k.err = fs.ErrNotExist
	if _, err := g.read(all, "/x", true, born); !errors.Is(err, fs.ErrNotExist) || k.open != 0 || all.open.Load() != 0 {
		t.Errorf("%v, %d meters are open", err, k.open)
	}
}

// Above the bound a meter is opened for one reading, and when the pods need more, what was open is given back.
func TestMetersAreBounded(t *testing.T) {
	k := &scriptedKernel{}
	pods := int64(0)
	all := newGauges(k, func() int64 { return pods })
	all.limit = 1400
	gs := make([]gauge, 150)
	for _, x := range []struct {
		pods int64
		want int // of meters with 7 descriptors
	}{{0, 900 / 7}, {100, 600 / 7}, {1000, 350 / 7}, {0, 900 / 7}} {
		pods = x.pods
		for range 2 {
			for i := range gs {
				if _, err := gs[i].read(all, "/x", true, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			if k.open != x.want {
				t.Errorf("%d pods and containers: %d meters are open, want %d", pods, k.open, x.want)
			}
		}
	}
	for i := range gs {
		gs[i].close()
	}
	if k.open != 0 || all.open.Load() != 0 {
		t.Errorf("%d meters stay open, %d descriptors are counted", k.open, all.open.Load())
	}
}
