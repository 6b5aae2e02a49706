package engine

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// A container's session keyring is its own, its exec'd processes share it, and both hold for one in a user namespace.
func TestSessionKeyring(t *testing.T) {
	if _, err := os.Stat("/proc/keys"); err != nil {
		t.Skip("this kernel has no keys: ", err)
	}
	for name, o := range map[string]CreateOptions{"host's users": options(t), "user namespace": userOptions(t)} {
		t.Run(name, func(t *testing.T) {
			show := "grep " + keyringName(o.ID) + ": /proc/keys" // of others that are gone the kernel may still list some
			o.Spec.Process.Args = []string{"sh", "-c", show + "; sleep 1000"}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			r.SetReadDeadline(time.Now().Add(2 * time.Minute))
			o.Spec.Linux.MaskedPaths = nil // /proc/keys
			o.Stdio.Out, o.Stdio.Err = w, w
			c := newContainer(t, o)
			w.Close()
			if err := c.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			first := make([]byte, 4096)
			n, err := io.ReadAtLeast(r, first, len("12345678"+keyringName(o.ID)))
			if err != nil {
				t.Fatal(err)
			}
			if out := string(first[:n]); !strings.Contains(out, keyringName(o.ID)) || !strings.Contains(out, "3f1b0000") {
				t.Errorf("keyrings that the container sees: %q", out)
			}
			serial := strings.Fields(string(first[:n]))[0]
			again := execOutput(t, c, "sh", "-c", show)
			if !strings.Contains(again, serial) {
				t.Errorf("keyring %s, of an exec'd process: %q", serial, again)
			}
		})
	}
	o := options(t)
	o.Spec.Process.Args = []string{"sh", "-c", "grep " + keyringName(o.ID) + ": /proc/keys"}
	o.NoKeyring = true
	o.Spec.Linux.MaskedPaths = nil
	if out, _ := run(t, o); strings.Contains(out, keyringName(o.ID)) {
		t.Errorf("with NoKeyring: %q", out)
	}
}
