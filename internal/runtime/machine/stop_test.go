package machine_test

import (
	"context"
	"testing"
	"time"
)

// A stop signal that comes before the program has a handler for it is not lost: the kernel drops it, for the
// program is the first of its namespace, and Berth sends it again.
func TestStopBeforeHandler(t *testing.T) {
	p := newPlace(t)
	d := p.open(t)
	ctx := context.Background()
	sb, err := d.rt.RunSandbox(ctx, p.pod("early", true))
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.start(ctx, sb, shell("main", "sleep 1; trap 'exit 7' TERM; while :; do sleep 0.1; done"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.rt.StopContainer(ctx, c, 40*time.Second); err != nil {
		t.Fatal(err)
	}
	if st, err := d.rt.Container(c); err != nil || st.ExitCode != 7 {
		t.Errorf("exit code %d, %v", st.ExitCode, err)
	}
	if err := d.rt.RemoveSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	d.checkEmpty(t)
}
