package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
)

// List names what Ensure makes on a host, for those who look for what nobody
// owns any more: the entries of /run/netns that begin with Prefix, half-made
// ones too, and the veth links of the host that do. Links of other kinds are
// not ours whatever their name.
func (h *Host) List(ctx context.Context) (namespaces, links []string, err error) {
	entries, err := os.ReadDir(namespace.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range entries {
		if validateNamespace(e.Name()) == nil {
			namespaces = append(namespaces, e.Name())
		}
	}
	nl, err := kernel.Open()
	if err != nil {
		return nil, nil, err
	}
	defer nl.Close()
	all, err := kernel.Dump(nl.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, Prefix) {
			links = append(links, l.Attrs().Name)
		}
	}
	slices.Sort(links)
	return namespaces, links, nil
}

// Watch calls changed when it has begun, and then, until ctx ends, when a link
// or namespace of ours, or a bridge or device, may have changed. It may call too often.
//
// It sees the host's side: links of ours deleted, set down or taken from their
// bridge, whoever deletes the end inside, and names in /run/netns that come and
// go. Addresses, routes, sysctls and the firewall inside a namespace are not
// watched, for only the host's root could change them, and each network would
// need sockets of its own: the next Observe finds that drift. Watch returns nil
// when ctx has ended; changed is called by one goroutine at a time.
func (h *Host) Watch(ctx context.Context, changed func()) error {
	events := make(chan struct{}, 1)
	notify := func() {
		select {
		case events <- struct{}{}:
		default: // one is waiting, and it has not been looked at yet
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watchLinks(ctx, notify) })
	g.Go(func() error { return watchRunDir(ctx, notify) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-events:
				changed()
			}
		}
	})
	return g.Wait()
}

// watchLinks subscribes again whenever the subscription breaks, for example
// because the socket's buffer overflowed: what was lost meanwhile is covered by
// one more call.
func watchLinks(ctx context.Context, notify func()) error {
	for ctx.Err() == nil {
		if err := watchLinksOnce(ctx, notify); err != nil {
			return fmt.Errorf("watch links: %w", err)
		}
		if !pause(ctx) {
			break
		}
	}
	return nil
}

func watchLinksOnce(ctx context.Context, notify func()) error {
	updates := make(chan netlink.LinkUpdate)
	done := make(chan struct{})
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ReceiveBufferSize: 1 << 20,
	})
	if err != nil {
		return err
	}
	defer func() {
		close(done)
		for range updates { // until the subscription's goroutine has ended
		}
	}()
	notify()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			// A port's message comes twice, once from the bridge, with its name.
			if strings.HasPrefix(u.Attrs().Name, Prefix) || carries(u.Link) {
				notify()
			}
		}
	}
}

// carries reports whether a plug may lead to such a link. Those of the host's
// guests and containers come and go, and lead nowhere.
func carries(l netlink.Link) bool {
	switch l.Type() {
	case "veth", "tun", "tuntap", "macvtap":
		return false
	}
	return true
}

// watchRunDir watches the names in /run/netns; it makes the directory so that
// there is something to watch. The later bind mount of the directory onto itself
// has the same inode, so that the watch goes on.
func watchRunDir(ctx context.Context, notify func()) error {
	for ctx.Err() == nil {
		if err := watchRunDirOnce(ctx, notify); err != nil {
			return fmt.Errorf("watch %s: %w", namespace.Dir, err)
		}
		if !pause(ctx) {
			break
		}
	}
	return nil
}

func watchRunDirOnce(ctx context.Context, notify func()) error {
	if err := os.MkdirAll(namespace.Dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "inotify") // its reads end when it is closed
	defer f.Close()
	const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(fd, namespace.Dir, mask); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	notify()
	buf := make([]byte, 64*1024)
	for {
		k, err := f.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		notify()
		if gone(buf[:k]) {
			return nil // the directory itself: begin again with the new one
		}
	}
}

// gone reports whether the last inotify event says that the watch has ended:
// inotify(7); each event is 16 bytes and a name of the length in the last four.
func gone(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		if mask&(unix.IN_IGNORED|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
			return true
		}
		events = events[min(len(events), unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:]))):]
	}
	return false
}

// pause keeps a subscription that breaks at once from spinning; false if ctx
// has ended.
func pause(ctx context.Context) bool {
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
