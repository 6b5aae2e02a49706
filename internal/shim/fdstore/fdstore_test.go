package fdstore

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/11f9778f/berth/internal/sys"
)

func serve(t *testing.T, k *Keeper) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fd.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go k.Serve(l)
	return path
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 12000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s did not happen", what)
}

func TestVaultFollowsKeeper(t *testing.T) {
	k := NewKeeper()
	r, w, _ := os.Pipe()
	defer r.Close()
	defer w.Close()
	k.Put("c1/stdout", r)
	path := serve(t, k)

	for round := range 2 { // the second daemon takes the first one's place
		v, err := Dial(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-v.Synced()
		if v.Len() != 1 {
			t.Fatalf("round %d: %d files", round, v.Len())
		}
		k.Put("c2/stdout", r)
		wait(t, "put", func() bool { return v.Len() == 2 })
		k.Drop("c2/stdout")
		wait(t, "drop", func() bool { return v.Len() == 1 })
		if round == 0 {
			continue
		}
		fmt.Fprint(w, "kept")
		files := v.Take()
		f := files["c1/stdout"].File("stdout")
		b := make([]byte, 10)
		n, err := f.Read(b)
		if string(b[:n]) != "kept" || err != nil {
			t.Fatalf("read %q, %v", b[:n], err)
		}
		f.Close()
	}
}

func TestKeeperDoesNotWaitForStoppedDaemon(t *testing.T) {
	k := NewKeeper()
	path := serve(t, k)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // and never read
	r, w, _ := os.Pipe()
	defer w.Close()
	done := make(chan struct{})
	go func() {
		for i := range 5000 {
			k.Put(fmt.Sprint("c", i), r)
		}
		for i := range 5000 {
			k.Drop(fmt.Sprint("c", i))
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatal("the keeper waits")
	}
	r.Close()
	v, err := Dial(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	<-v.Synced()
	if v.Len() != 0 {
		t.Errorf("%d files", v.Len())
	}
}

// A Keeper that dies before it has told all that it keeps: what it had named counts, and for the rest what its predecessor
// left. One that has told all has given up the rest.
func TestVaultKeepsWhatAPredecessorLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fd.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, w, _ := os.Pipe()
	defer r.Close()
	defer w.Close()
	var left map[string]*sys.Held
	for _, life := range []struct {
		says func(*net.UnixConn)
		want string
	}{
		{func(c *net.UnixConn) {
			for _, name := range []string{"a", "b", "c"} {
				sys.SendFile(c, []byte("P"+name), r)
			}
			c.Write([]byte("S"))
		}, "[a b c]"},
		{func(*net.UnixConn) {}, "[a b c]"},
		{func(c *net.UnixConn) {
			sys.SendFile(c, []byte("Pb"), r)
			sys.SendFile(c, []byte("Pd"), r)
			c.Write([]byte("Dc"))
		}, "[a b d]"},
		{func(c *net.UnixConn) {
			sys.SendFile(c, []byte("Pd"), r)
			c.Write([]byte("S"))
		}, "[d]"},
	} {
		v, err := Dial(path, left)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		life.says(c)
		c.Close()
		left = v.Take()
		if got := fmt.Sprint(slices.Sorted(maps.Keys(left))); got != life.want {
			t.Errorf("%s, want %s", got, life.want)
		}
	}
	left["d"].Close()
	r.Close()
	if _, err := w.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("some of what was given up is still open: %v", err)
	}
}

func TestVaultSurvivesGarbage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fd.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		for _, m := range []string{"?", "P", "Pname without a file", "D", "Dnever put", "S", "S"} {
			c.Write([]byte(m))
		}
		c.Write(make([]byte, 100_000)) // too long: the end
		io.Copy(io.Discard, c)
	}()
	v, err := Dial(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-v.done
	if len(v.Take()) != 0 {
		t.Error("files out of nothing")
	}
}
