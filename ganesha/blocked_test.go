package ganesha

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/integration/nfs41"
	"github.com/causeway-project/causeway/integration/wait"
)

// FIFREEZE and FITHAW of linux/fs.h: what changes the file system waits.
const fiFreeze, fiThaw = 0xc0045877, 0xc0045878

// TestBackendHangs: a file system that does not answer harms the clients of its
// own exports alone, until a guest's worth of requests waits for it; and even
// then the gateway is left alone, and goes on when the file system does.
func TestBackendHangs(t *testing.T) { onBoth(t, testBackendHangs) }

func testBackendHangs(t *testing.T, system string) {
	s := newSiteOn(t, system)
	s.o.Lease, s.o.Grace = 40*time.Second, 40*time.Second // longer than anybody waits
	s.g = New(s.o)
	hung, healthy := s.tree(1), s.share(2)
	s.mountDisk(hung.Path)
	if err := os.Chmod(hung.Path, 0o777); err != nil {
		t.Fatal(err)
	}
	s.start(hung, healthy)
	pid := s.pid()
	ctx, cancel := context.WithTimeout(t.Context(), 2*wait.Long)
	defer cancel()
	open := func(path string) *nfs41.File {
		f, err := s.client(identity{}).Open(ctx, path, nfs41.OpenOptions{Access: nfs41.ReadWrite, Create: nfs41.Unchecked, Mode: 0o644})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	other := open("/share2/file")
	const few, all = 70, 140
	var files []*nfs41.File
	for range all {
		files = append(files, open("/share1/file"))
	}
	dir, err := os.Open(hung.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceValue(func() error { return unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0) })
	defer func() { _ = thaw() }()
	var writes sync.WaitGroup
	write := func(files []*nfs41.File) {
		for _, f := range files {
			writes.Go(func() {
				if _, err := f.WriteAt(ctx, []byte("x"), 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
	write(files[:few])
	wait.Until(t, "threads wait", func() bool {
		w, err := waiting(pid)
		if err != nil {
			t.Fatal(err)
		}
		return len(w) >= few
	})
	if _, err := other.WriteAt(ctx, []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	if h := s.g.Probe(ctx, ProbeOptions{}); !h.OK() {
		t.Errorf("with %d requests that wait: %+v", few, h)
	}

	write(files[few:])
	for {
		// Until the last has come, it may be busy for a while and answer again.
		err := s.g.Start(ctx, func() []Export { return []Export{hung, healthy} })
		if errors.Is(err, ErrBlocked) {
			break
		}
		if err != nil {
			t.Fatalf("Start with %d requests that wait: %v, want ErrBlocked", all, err)
		}
	}
	if err := thaw(); err != nil {
		t.Fatal(err)
	}
	writes.Wait()
	s.start(hung, healthy)
	if now := s.pid(); now != pid {
		t.Errorf("process %d, want %d", now, pid)
	}
	if _, err := other.WriteAt(ctx, []byte("z"), 0); err != nil {
		t.Error(err)
	}
}
