package runtime

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{places: 1, lease: time.Hour}
		leave, err := a.enter(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, w := range []struct {
			name string
			head time.Duration
		}{{"sandbox", admitSandbox}, {"create", admitCreate}, {"second sandbox", admitSandbox}, {"start", admitStart}} {
			go func() {
				leave, err := a.enter(t.Context(), w.head)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, w.name)
				leave()
			}()
			time.Sleep(time.Millisecond)
		}
		gone, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := a.enter(gone, admitStart); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that has gone: %v", err)
		}
		leave()
		leave() // a second time does nothing
		synctest.Wait()
		if want := []string{"start", "create", "sandbox", "second sandbox"}; !slices.Equal(order, want) {
			t.Errorf("admitted %q, want %q", order, want)
		}
		if a.taken != 0 || len(a.waiting) != 0 {
			t.Errorf("%d places taken, %d waiting at the end", a.taken, len(a.waiting))
		}
	})
}

// A step that hangs does not hold up the next one for longer than its lease.
func TestAdmissionLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admission{places: 2, lease: admissionLease}
		began := time.Now()
		for range 6 {
			if _, err := a.enter(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took != 2*admissionLease {
			t.Errorf("six that hang, two at once, took %v to come in", took)
		}
		time.Sleep(admissionLease)
		synctest.Wait()
		if a.taken != 0 {
			t.Errorf("%d places taken at the end", a.taken)
		}
	})
}
