package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/integration/programs"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// plugged attaches the device of a daemon to the guest and mounts it at /mnt/TAG
// there, until the test ends.
func (w *world) plugged(t *testing.T, tag string, v virtiofsd.Daemon) {
	t.Helper()
	w.plugQueue(t, tag, v, 0)
}

// plugQueue is plugged with a queue of some size.
func (w *world) plugQueue(t *testing.T, tag string, v virtiofsd.Daemon, size int) {
	t.Helper()
	_, v = daemonAs(t, v)
	d := Device{Instance: guestUUID, Alias: AliasPrefix + tag, Tag: tag, Socket: v.Socket(), QueueSize: size}
	m := GuestMount{Instance: guestUUID, Tag: tag, Path: "/mnt/" + tag}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(w.host.GuestUnmount(ctx, m), w.host.Detach(ctx, d)); err != nil {
			t.Error(err)
		}
	})
	ctx := limited(t, time.Minute)
	if err := w.host.Attach(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestMount(ctx, m); err != nil {
		t.Fatal(err)
	}
}

// TestSettings: what is asked for is what the guest gets.
func TestSettings(t *testing.T) {
	w, p := bootedGuest(t), program(t)
	threads := 1
	if p.Has(virtiofsd.Threads) {
		threads = 4
	}
	for _, tt := range []struct {
		name  string
		s     virtiofsd.Settings
		queue int
		want  []attempt
	}{
		{"none", virtiofsd.Settings{}, 0, []attempt{{"./locker xattr set file", false}, {"dd if=/dev/zero of=big bs=1M count=4 && cmp -n 4194304 big /dev/zero", true}}},
		{"xattr", virtiofsd.Settings{Cache: "never", Xattr: true, Threads: threads}, 8, []attempt{{"./locker xattr set file", true}, {"dd if=/dev/zero of=big bs=1M count=4 && cmp -n 4194304 big /dev/zero", true}}},
		{"lists", virtiofsd.Settings{Cache: "always", Xattr: true, PosixACL: true}, 64, []attempt{{"dd if=/dev/zero of=big bs=1M count=4 && cmp -n 4194304 big /dev/zero", true}}},
		{"metadata", virtiofsd.Settings{Cache: "metadata"}, 1024, []attempt{{"cat file", true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.s.Cache == "metadata" && !p.Has(virtiofsd.CacheMetadata) {
				return // see TestUnable
			}
			share := t.TempDir()
			write(t, filepath.Join(share, "file"), "x")
			putLocker(t, share)
			w.plugQueue(t, "set", virtiofsd.Daemon{Source: share, Settings: tt.s}, tt.queue)
			w.attempts(t, "/mnt/set", tt.want)
		})
	}
}

// program is the virtiofsd that daemons get.
func program(t *testing.T) virtiofsd.Program {
	t.Helper()
	p, err := new(virtiofsd.Daemons).Program(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An attempt is what a guest's root tries, and whether it should get it.
type attempt struct {
	script string
	want   bool
}

// attempts runs each in a directory of the guest.
func (w *world) attempts(t *testing.T, dir string, all []attempt) {
	t.Helper()
	var script strings.Builder
	for _, a := range all {
		fmt.Fprintf(&script, "cd %s\nif (%s) >/dev/null 2>&1; then echo true; else echo false; fi\n", dir, a.script)
	}
	got := strings.Fields(w.run(t, "sh", "-c", script.String()))
	if len(got) != len(all) {
		t.Fatalf("%d answers to %d attempts: %q", len(got), len(all), got)
	}
	for i, a := range all {
		if got[i] != fmt.Sprint(a.want) {
			t.Errorf("%s: %s, want %t", a.script, got[i], a.want)
		}
	}
}

// wantOwners compares owners and modes of the share's files on the host.
func wantOwners(t *testing.T, share string, want map[string]string) {
	t.Helper()
	for name, want := range want {
		got := "absent"
		if info, err := os.Lstat(filepath.Join(share, name)); err == nil {
			st := info.Sys().(*syscall.Stat_t)
			got = fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode&0o7777)
		}
		if got != want {
			t.Errorf("on the host %s is %s, want %s", name, got, want)
		}
	}
}

// attacked is a share of one owner, with things of others in it.
func attacked(t *testing.T, uid, gid int) string {
	t.Helper()
	share := t.TempDir()
	for name, mode := range map[string]os.FileMode{"roots": 0o644, "secret": 0o600, "others": 0o644} {
		path := filepath.Join(share, name)
		write(t, path, "of another")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chown(share, uid, gid), os.Chown(filepath.Join(share, "others"), 4242, 4242)); err != nil {
		t.Fatal(err)
	}
	return share
}

// attacks of a guest's root on what is not the guest's, and on the host: none of
// what it makes may give anybody more than the guest has itself.
var attacks = []attempt{
	{"cat secret", false},
	{"cat roots", true}, // whom its mode lets in
	{"echo more >>roots", false},
	{"chmod 6777 roots", false},
	{"chmod 6777 others", false},
	{"rm -f others", false},
	{"chown 0:0 roots && chmod 4755 roots", false},
	{"chown 1:1 secret && cat secret", false},
	{"mv others mine", false},
	{"mknod disk b 8 0", false},
	{"mknod memory c 1 1", false},
	{"mkfifo fifo", true},
	{"cp /bin/busybox program && chmod 6755 program", true},
}

func TestIDsMap(t *testing.T) {
	w := bootedGuest(t)
	share := attacked(t, 100000, 200000)
	w.plugged(t, "mapped", virtiofsd.Daemon{Source: share, Settings: virtiofsd.Settings{Xattr: true}, IDs: virtiofsd.IDs{
		UIDs: []process.IDRange{{Process: 0, Disk: 100000, Count: 2000}}, GIDs: []process.IDRange{{Process: 0, Disk: 200000, Count: 2000}},
	}})
	w.attempts(t, "/mnt/mapped", append([]attempt{
		{`[ "$(stat -c %u:%g . roots others)" = "$(printf '0:0\n65534:65534\n65534:65534')" ]`, true},
		{"mkdir dir && chown 1000:1001 dir", true},
		{"chmod 777 dir && (grep -q ^cwuser: /etc/passwd || echo cwuser:x:1000:1000::/:/bin/sh >>/etc/passwd); su cwuser -c 'touch dir/users'", true},
		{"touch beyond && chown 2000 beyond", false}, // not in the map
	}, attacks...))
	wantOwners(t, share, map[string]string{
		".": "100000:200000 755", "dir": "101000:201001 777", "dir/users": "101000:201000 644", "beyond": "100000:200000 644",
		"program": "100000:200000 6755", "fifo": "100000:200000 644", "disk": "absent", "memory": "absent",
		"roots": "0:0 644", "secret": "0:0 600", "others": "4242:4242 644",
	})
}

func TestIDsSquash(t *testing.T) {
	w := bootedGuest(t)
	share := attacked(t, 3000, 4000)
	v := virtiofsd.Daemon{Source: share, Settings: virtiofsd.Settings{Xattr: true}, IDs: virtiofsd.IDs{Squash: true, UID: 3000, GID: 4000}}
	if !program(t).Has(virtiofsd.SquashIDs) {
		v.Dir = filepath.Join(t.TempDir(), "d")
		if err := new(virtiofsd.Daemons).Start(t.Context(), v); !errors.Is(err, virtiofsd.ErrUnable) {
			t.Errorf("Start = %v, want ErrUnable", err)
		}
		return
	}
	w.plugged(t, "squashed", v)
	w.attempts(t, "/mnt/squashed", append([]attempt{
		{"[ $(stat -c %u:%g .) = 3000:4000 ]", true},
		{"mkdir dir && chown 1000:1001 dir", true}, // and changes nothing
		{"chmod 777 dir && (grep -q ^cwuser: /etc/passwd || echo cwuser:x:1000:1000::/:/bin/sh >>/etc/passwd); su cwuser -c 'touch dir/users'", true},
	}, attacks...))
	wantOwners(t, share, map[string]string{
		"dir": "3000:4000 777", "dir/users": "3000:4000 644", "program": "3000:4000 6755", "fifo": "3000:4000 644", "disk": "absent", "memory": "absent",
		"roots": "0:0 644", "secret": "0:0 600", "others": "4242:4242 644",
	})
}

// TestReadOnly: what keeps the guest from writing is on the host, and goes on
// when its root mounts the device anew for writing.
func TestReadOnly(t *testing.T) {
	w := bootedGuest(t)
	share, mounted := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(share, "sub"), 0o777), os.Chmod(share, 0o777)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(share, "file"), "x")
	if err := errors.Join(
		unix.Mount(share, mounted, "", unix.MS_BIND, ""),
		unix.Mount("", mounted, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mounted, 0); err != nil {
			t.Error(err)
		}
	})
	for _, ids := range []virtiofsd.IDs{{}, {UIDs: []process.IDRange{{Process: 0, Disk: 1, Count: 9}}, GIDs: []process.IDRange{{Process: 0, Disk: 1, Count: 9}}}} {
		t.Run(fmt.Sprint(len(ids.UIDs)), func(t *testing.T) {
			w.plugged(t, "ro", virtiofsd.Daemon{Source: mounted, ReadOnly: true, Settings: virtiofsd.Settings{Xattr: true}, IDs: ids})
			w.attempts(t, "/mnt/ro", []attempt{
				{"mount -o remount,rw /mnt/ro && grep ' /mnt/ro virtiofs rw' /proc/mounts", true},
				{"cat file", true},
				{"echo more >>file", false},
				{"touch new", false},
				{"touch sub/new", false},
				{"mkdir sub/dir", false},
				{"chmod 777 file", false},
				{"chown 1:1 file", false},
				{"rm file", false},
				{"mv file other", false},
				{"ln file hard", false},
				{"mkfifo fifo", false},
				{"truncate -s 0 file", false},
			})
		})
	}
	if text, err := os.ReadFile(filepath.Join(share, "file")); err != nil || string(text) != "x" {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

// hostLock tries a lock of a process on the host.
func hostLock(t *testing.T, kind, file string) string {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if kind == "flock" {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	} else {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	}
	if err != nil {
		return err.Error()
	}
	return "locked"
}

// putLocker builds the program of testdata/locker into dir.
func putLocker(t *testing.T, dir string) {
	t.Helper()
	if err := programs.Build(t.Context(), programs.Options{Dir: dir, Packages: []string{"virtiofs/testdata/locker"}}); err != nil {
		t.Fatal(err)
	}
}

// TestLocks: two devices of one share are two users of it, as two guests are:
// each has a virtiofsd and, in the guest, a file system with locks of its own.
func TestLocks(t *testing.T) {
	w := bootedGuest(t)
	share := t.TempDir()
	putLocker(t, share)
	const free, taken, no = "locked", "resource temporarily unavailable", "operation not supported"
	for _, tt := range []struct {
		name string
		s    virtiofsd.Settings
		want map[string]string
	}{
		{"local", virtiofsd.Settings{}, map[string]string{"waits": free, "holds": free, "same guest": taken, "other guest": free, "host": free, "afterwards": free}},
		{"shared", virtiofsd.Settings{SharedLocks: true}, map[string]string{"waits": no, "holds": free, "same guest": taken, "other guest": taken, "host": taken, "afterwards": free}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.s.SharedLocks && !program(t).Has(virtiofsd.SharedLocks) {
				return
			}
			w.plugged(t, "la", virtiofsd.Daemon{Source: share, Settings: tt.s})
			w.plugged(t, "lb", virtiofsd.Daemon{Source: share, Settings: tt.s})
			got := map[string]map[string]string{"flock": {}, "posix": {}}
			answers := func(script string) {
				t.Helper()
				out := w.run(t, "sh", "-c", "for kind in flock posix; do file="+tt.name+"$kind; "+script+"; done")
				for line := range strings.Lines(out) {
					kind, rest, _ := strings.Cut(strings.TrimSpace(line), ",")
					what, answer, ok := strings.Cut(rest, ",")
					if !ok {
						t.Fatalf("the guest says %q", out)
					}
					got[kind][what] = answer
				}
			}
			answers(`[ -x /tmp/locker ] || cp /mnt/la/locker /tmp
				echo "$kind,waits,$(/tmp/locker $kind wait /mnt/la/$file)"
				/tmp/locker $kind hold /mnt/la/$file >/tmp/held$kind 2>&1 </dev/null & echo $! >/tmp/holder$kind
				until [ -s /tmp/held$kind ]; do sleep 0.1; done
				echo "$kind,holds,$(cat /tmp/held$kind)"
				echo "$kind,same guest,$(/tmp/locker $kind try /mnt/la/$file)"
				echo "$kind,other guest,$(/tmp/locker $kind try /mnt/lb/$file)"`)
			for kind := range got {
				got[kind]["host"] = hostLock(t, kind, filepath.Join(share, tt.name+kind))
			}
			answers(`kill -9 $(cat /tmp/holder$kind); while kill -0 $(cat /tmp/holder$kind) 2>/dev/null; do sleep 0.1; done; rm /tmp/held$kind
				echo "$kind,afterwards,$(/tmp/locker $kind try /mnt/lb/$file)"`)
			for kind := range got {
				if d := cmp.Diff(tt.want, got[kind]); d != "" {
					t.Errorf("%s (-want +got):\n%s", kind, d)
				}
			}
		})
	}
}
