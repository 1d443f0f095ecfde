package integration

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/nfs41"
)

// TestHandles has two tenants with a share each in one pool. Whatever one of
// them learned of the other, its paths, its file handles and the numbers of its
// inodes, it reaches nothing. Package ganesha has the attacks on one gateway.
func TestHandles(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	red := w.bridge(ctx, t, "br-red")
	redHost := red.plug(ctx, t, "c-red", client4+"/24", client6+"/64")
	files := map[string]string{}
	for _, share := range []string{"of-blue", "of-red"} {
		files[share] = filepath.Join(w.share(t, share), "file")
		if err := os.WriteFile(files[share], []byte(share), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	n := w.started(ctx, t, quick)
	n.putNetwork(ctx, blueNetwork())
	n.putNetwork(ctx, bridged("red", red.Name, gateway4+"/24", gateway6+"/64"))
	n.putExport(ctx, exported("of-blue", "of-blue"))
	e := exported("of-red", "of-red")
	e.Network = "red"
	n.putExport(ctx, e)

	blue, thief := dial(ctx, t, n.client, gateway4), dial(ctx, t, redHost, gateway4)
	captured, err := blue.Handle(ctx, "/of-blue/file")
	if err != nil {
		t.Fatal(err)
	}
	own, err := thief.Handle(ctx, "/of-red/file")
	if err != nil {
		t.Fatal(err)
	}
	inBlue, inRed := kernelHandle(t, files["of-blue"]), kernelHandle(t, files["of-red"])
	if !bytes.Contains(captured, inBlue) || !bytes.Contains(own, inRed) {
		t.Fatalf("handles %x and %x do not show %x and %x", captured, own, inBlue, inRed)
	}
	for what, h := range map[string][]byte{
		"a captured handle":              captured,
		"a handle with blue's inode":     bytes.Replace(own, inRed, inBlue, 1),
		"a captured handle, red's inode": bytes.Replace(captured, inBlue, inRed, 1),
	} {
		if data, err := thief.ReadHandle(ctx, h, 100); !errors.Is(err, nfs41.STALE) && !errors.Is(err, nfs41.BADHANDLE) {
			t.Errorf("red reads %q by %s: %v", data, what, err)
		}
	}
	for _, path := range []string{"/of-blue", "/of-blue/file", "/of-red/../of-blue", "/.fs", "/.."} {
		if _, err := thief.Stat(ctx, path); err == nil {
			t.Errorf("red sees %s", path)
		}
	}

	reads := func(when string) {
		t.Helper()
		for c, want := range map[*nfs41.Client]struct {
			handle []byte
			text   string
		}{blue: {captured, "of-blue"}, thief: {own, "of-red"}} {
			if data, err := c.ReadHandle(ctx, want.handle, 100); err != nil || string(data) != want.text {
				t.Errorf("%s: %q, %v; want %q", when, data, err, want.text)
			}
		}
	}
	reads("at first")
	gateway := n.gateway(ctx, "blue").GetPid()
	n.kill()
	n.start(ctx)
	reads("after the agent was killed")
	if now := n.gateway(ctx, "blue").GetPid(); now != gateway {
		t.Errorf("gateway %d was not adopted: %d runs", gateway, now)
	}
	n.killGateway(ctx)
	reads("after the gateway was killed")
	n.deleteExport(ctx, "of-blue")
	n.putExport(ctx, exported("next", "of-blue"))
	if data, err := blue.ReadHandle(ctx, captured, 100); !errors.Is(err, nfs41.STALE) && !errors.Is(err, nfs41.BADHANDLE) {
		t.Errorf("at the next export: %q, %v", data, err)
	}

	closeClient(ctx, t, blue)
	closeClient(ctx, t, thief)
	n.deleteExport(ctx, "next")
	n.deleteExport(ctx, "of-red")
	n.deleteNetwork(ctx, "blue")
	n.deleteNetwork(ctx, "red")
	n.finish(ctx)
}

// kernelHandle is what a file handle shows of a file.
func kernelHandle(t *testing.T, file string) []byte {
	t.Helper()
	h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, file, 0)
	if err != nil {
		t.Fatal(err)
	}
	return h.Bytes()
}
