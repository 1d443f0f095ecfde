package netns

import (
	"context"
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/netns/namespace"
)

// startWatch starts one watcher and awaits that it has begun.
func startWatch(t *testing.T, watch func(context.Context, func()) error) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan struct{}, 1000)
	done := make(chan error, 1)
	go func() { done <- watch(ctx, func() { events <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	wait.Closed(t, "begin", events)
	return events
}

func drain(events <-chan struct{}) {
	for {
		select {
		case <-events:
		default:
			return
		}
	}
}

func TestWatchLinks(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	events := startWatch(t, watchLinks)
	for _, words := range []string{
		"link set cwblue down",
		"link set cwblue up",
		"link set cwblue nomaster",
		"link set br-blue mtu 1400",
		"netns exec cw-blue ip link set eth0 down",
		"netns exec cw-blue ip link del eth0",
		"link del br-blue",
	} {
		drain(events)
		ip(t, words)
		wait.Closed(t, words, events)
	}
}

func TestWatchNamespaces(t *testing.T) {
	needs.Root(t)
	events := startWatch(t, watchRunDir)
	for _, words := range []string{
		"netns add cw-one", // the first bind-mounts the directory on itself
		"netns add cw-two",
		"netns del cw-one",
		"netns del cw-two",
	} {
		drain(events)
		ip(t, words)
		wait.Closed(t, words, events)
	}
	drain(events)
	for unix.Unmount(namespace.Dir, unix.MNT_DETACH) == nil {
	}
	if err := os.Remove(namespace.Dir); err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "directory removed", events)
	wait.Closed(t, "watched anew", events)
	drain(events)
	ip(t, "netns add cw-one")
	wait.Closed(t, "added in the new directory", events)
	ip(t, "netns del cw-one")
}

func TestWatch(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	events := startWatch(t, h.Watch)
	ensure(t, h, n)
	wait.Closed(t, "network made", events)
}

func TestGone(t *testing.T) {
	event := func(mask uint32, name string) []byte {
		b := make([]byte, 16, 16+len(name))
		binary.NativeEndian.PutUint32(b[4:], mask)
		binary.NativeEndian.PutUint32(b[12:], uint32(len(name)))
		return append(b, name...)
	}
	created, ignored := event(unix.IN_CREATE, "cw\x00\x00"), event(unix.IN_IGNORED, "")
	for _, c := range []struct {
		events []byte
		want   bool
	}{
		{nil, false},
		{created, false},
		{created[:15], false},
		{created[:17], false},
		{ignored, true},
		{append(append([]byte{}, created...), ignored...), true},
	} {
		if got := gone(c.events); got != c.want {
			t.Errorf("% x: %t", c.events, got)
		}
	}
}
