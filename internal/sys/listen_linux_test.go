package sys

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestListenUnix(t *testing.T) {
	for network, packets := range map[string]bool{"unix": false, "unixpacket": true} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := ListenUnix(path, packets)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ListenUnix(path, packets); err == nil {
			t.Error("listens twice at one path")
		}
		client, err := net.Dial(network, path)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("hello"))
		b := make([]byte, 9)
		if n, err := client.Read(b); string(b[:n]) != "hello" {
			t.Errorf("%q, %v", b[:n], err)
		}
		conn.Close()
		client.Close()
		l.Close()
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
