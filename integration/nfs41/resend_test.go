package nfs41

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// LossyProxy listens on this namespace's loopback and passes connections on to
// address in the namespace at netns. Once lose is set, it swallows the next
// answer, and with it the connection.
func LossyProxy(t *testing.T, netns, address string) (listen string, lose *atomic.Bool) {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	lose = new(atomic.Bool)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); cancel(); running.Wait() })
	pass := func(client net.Conn) {
		defer client.Close()
		server, err := connect(ctx, Options{Address: address, NetNS: netns, Timing: Timing{Connect: 10 * time.Second}})
		if err != nil {
			return
		}
		defer server.Close()
		stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
		defer stop()
		running.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		for {
			p := make([]byte, 64<<10)
			n, err := server.Read(p)
			if err != nil || lose.CompareAndSwap(true, false) {
				return
			}
			if _, err := client.Write(p[:n]); err != nil {
				return
			}
		}
	}
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { pass(client) })
		}
	})
	return l.Addr().String(), lose
}
