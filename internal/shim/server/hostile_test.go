package server

import (
	"context"
	"encoding/binary"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
)

// Clients that send garbage, promise messages without end, leave in the middle of one, or flood the shim and never read an
// answer hold up nobody else.
func TestHostileClients(t *testing.T) {
	r := newRig(t, t.TempDir(), true)
	r.run("c1")
	socket := filepath.Join(r.s.cfg.Dir, SocketTTRPC)
	dial := func() net.Conn {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	// ttrpc: 4 bytes of length, 4 of stream, a type (1 is a request), flags.
	frame := func(length, stream uint32, payload []byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, length)
		return append(append(binary.BigEndian.AppendUint32(b, stream), 1, 0), payload...)
	}
	garbage := make([]byte, 64<<10)
	for i := range garbage {
		garbage[i] = byte(i * 7)
	}
	for _, b := range [][]byte{
		garbage, {}, {1}, frame(1<<31, 1, nil), frame(4<<20, 1, garbage), frame(10, 1, []byte("abc")), frame(3, 2, []byte("abc")),
		frame(uint32(len(garbage)), 1, garbage),
	} {
		conn := dial()
		conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
		conn.Write(b)
		if len(b)%2 == 0 { // the others stay
			conn.Close()
		}
	}
	var floods sync.WaitGroup
	for range 4 {
		conn := dial()
		floods.Go(func() {
			conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			for stream := uint32(1); ; stream += 2 {
				if _, err := conn.Write(frame(64, stream, garbage[:64])); err != nil {
					return // it takes no more, or has hung up
				}
			}
		})
	}
	conn := dial()
	client := taskv3.NewTTRPCTaskClient(ttrpc.NewClient(conn))
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if _, err := client.State(ctx, &taskv3.StateRequest{ID: "c1"}); err != nil {
			t.Errorf("beside the others: %v", err)
		}
		cancel()
	}
	floods.Wait()
}
