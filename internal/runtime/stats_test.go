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
	all := newGauges(k)
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

// Above the bound a meter is opened for one reading.
func TestMetersAreBounded(t *testing.T) {
	k := &scriptedKernel{}
	all := newGauges(k)
	all.most = 2 * 7
	gs := make([]gauge, 5)
	for range 2 {
		for i := range gs {
			if _, err := gs[i].read(all, "/x", true, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if k.open != 2 {
			t.Errorf("%d meters are open", k.open)
		}
	}
	for i := range gs {
		gs[i].close()
	}
	if k.open != 0 || all.open.Load() != 0 {
		t.Errorf("%d meters stay open, %d descriptors are counted", k.open, all.open.Load())
	}
	for limit, want := range map[int64]int64{1024: 256, 8192: 3192, 20000: 15000, 1 << 20: 3 << 18} {
		if got := mostDescriptors(limit); got != want {
			t.Errorf("of %d descriptors %d are for statistics, want %d", limit, got, want)
		}
	}
}
