package virtiofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/wait"
	"github.com/causeway-project/causeway/virtiofs/keeper"
	"github.com/causeway-project/causeway/virtiofs/virtiofsd"
)

// A mounted share whose virtiofsd is about to die.
type victim struct {
	w       *world
	daemons *virtiofsd.Daemons
	daemon  virtiofsd.Daemon
	device  Device
	mount   GuestMount
	share   string
}

func (w *world) victim(t *testing.T, name string) victim {
	t.Helper()
	share := t.TempDir()
	write(t, filepath.Join(share, "file"), "text")
	ds, d := daemon(t, share)
	v := victim{
		w: w, daemons: ds, daemon: d, share: share,
		device: Device{Instance: guestUUID, Alias: AliasPrefix + name, Tag: name, Socket: d.Socket()},
		mount:  GuestMount{Instance: guestUUID, Tag: name, Path: "/mnt/" + name},
	}
	ctx := limited(t, time.Minute)
	if err := w.host.Attach(ctx, v.device); err != nil {
		t.Fatal(err)
	}
	if err := w.host.GuestMount(ctx, v.mount); err != nil {
		t.Fatal(err)
	}
	wantState(t, ds, d, virtiofsd.Connected)
	return v
}

// processes of the victim's virtiofsd: the one that its keeper started, and
// those that this one did.
func (v victim) processes(t *testing.T) []int {
	t.Helper()
	r, err := keeper.ReadReport(v.daemon.Dir)
	if err != nil || r == nil {
		t.Fatalf("report %v, %v", r, err)
	}
	all := []int{r.PID}
	for i := 0; i < len(all); i++ {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range tasks {
			text, _ := os.ReadFile(file) // a thread that has ended
			for _, word := range strings.Fields(string(text)) {
				pid, err := strconv.Atoi(word)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, pid)
			}
		}
	}
	return all
}

func (v victim) signal(t *testing.T, s syscall.Signal, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("signal %v to %d: %v", s, pid, err)
		}
	}
}

// begin runs a shell line in the guest, and returns what tells how it ended.
func (v victim) begin(t *testing.T, line string) func(context.Context) (execStatus, error) {
	t.Helper()
	s := v.w.host.guest(guestUUID)
	var started struct {
		PID int `json:"pid"`
	}
	if err := s.ask(limited(t, time.Minute), "guest-exec", execArguments{Path: "sh", Arg: []string{"-c", line}, Capture: true}, &started); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) (is execStatus, err error) {
		err = s.ask(ctx, "guest-exec-status", map[string]int{"pid": started.PID}, &is)
		return is, err
	}
}

// waitsInFUSE waits until some task of the guest waits for virtiofsd.
func (v victim) waitsInFUSE(t *testing.T) {
	t.Helper()
	s := v.w.host.guest(guestUUID)
	wait.Until(t, "a request is in flight", func() bool {
		out, err := s.exec(t.Context(), "sh", "-c", "cat /proc/[0-9]*/wchan")
		return err == nil && strings.Contains(out, "request_wait_answer")
	})
}

// repaired takes the dead device out and brings the share again, as the agent
// does.
func (v victim) repaired(t *testing.T) {
	t.Helper()
	ctx := limited(t, time.Minute)
	h := v.w.host
	begin := time.Now()
	if err := h.Detach(ctx, v.device); err != nil {
		t.Fatal(err)
	}
	if err := h.GuestUnmount(ctx, v.mount); err != nil {
		t.Errorf("unmount of a dead mount: %v", err)
	}
	if err := v.daemons.Start(ctx, v.daemon); err != nil {
		t.Fatal(err)
	}
	if err := h.Attach(ctx, v.device); err != nil {
		t.Fatal(err)
	}
	if err := h.GuestMount(ctx, v.mount); err != nil {
		t.Fatal(err)
	}
	if got := v.w.run(t, "cat", v.mount.Path+"/file"); got != "text" {
		t.Errorf("guest reads %q", got)
	}
	t.Logf("repaired in %v", time.Since(begin).Round(time.Millisecond))
	if err := h.GuestUnmount(ctx, v.mount); err != nil {
		t.Error(err)
	}
	if err := h.Detach(ctx, v.device); err != nil {
		t.Error(err)
	}
}

// unwedge resets a guest whose test has failed, for the sake of the next.
func (w *world) unwedge(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	if err := w.guest.Reset(0); err != nil {
		t.Error(err)
	}
	_ = wait.Within(wait.Long, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		all, err := w.host.Devices(ctx)
		for _, d := range all {
			_ = w.host.Detach(ctx, d)
		}
		return err == nil && len(all) == 0
	})
}

func TestDaemonDies(t *testing.T) {
	w := bootedGuest(t)
	tests := []struct {
		name  string
		guest string // what runs in the guest when it dies, with $1 the mount
		stop  bool   // whether requests are in flight for sure
		kill  func(all []int) []int
	}{
		{"idle", "", false, first},
		{"idle, inner process", "", false, last},
		{"open files", "exec 3<$1/file 4>>$1/log; sleep 2; cat <&3; echo x >&4", false, first},
		{"one request in flight", "cat $1/file", true, first},
		{"one request in flight, inner process", "cat $1/file", true, last},
		{"many requests in flight", "for i in 1 2 3 4 5 6 7 8 9; do stat $1/$i & done; dd if=/dev/zero of=$1/big bs=1M count=8; wait", true, first},
		{"a writer at work", "while dd if=/dev/zero of=$1/big bs=64k count=64 conv=fsync; do :; done", false, first},
		{"a reader at work", "while cat $1/file && echo 3 >/proc/sys/vm/drop_caches; do :; done", false, first},
		{"new files", "i=0; while echo $i >$1/f$i; do i=$((i+1)); done", false, last},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := w.victim(t, fmt.Sprint("dies", i))
			t.Cleanup(func() { w.unwedge(t) })
			all := v.processes(t)
			if tt.stop {
				v.signal(t, syscall.SIGSTOP, last(all)...)
			}
			var status func(context.Context) (execStatus, error)
			if tt.guest != "" {
				status = v.begin(t, "set -- "+v.mount.Path+"; "+tt.guest)
				if tt.stop {
					v.waitsInFUSE(t)
				} else {
					w.run(t, "sleep", "0.3")
				}
			}
			v.signal(t, syscall.SIGKILL, tt.kill(all)...)
			wantState(t, v.daemons, v.daemon, virtiofsd.Dead)
			if status != nil {
				var is execStatus
				if err := wait.Within(wait.Long, func() (ended bool) {
					var err error
					is, err = status(t.Context())
					return err == nil && is.Exited
				}); err != nil {
					out, _ := os.ReadFile(filepath.Join(v.daemon.Dir, "output"))
					t.Fatalf("the guest's task hangs: %v\n%s", err, out)
				}
				t.Logf("guest: %d %s%s", is.ExitCode, is.Out, is.Err)
			}
			var r *keeper.Report
			wait.Until(t, "its end is reported", func() bool {
				var err error
				r, err = keeper.ReadReport(v.daemon.Dir)
				return err == nil && r != nil && r.Ended != nil
			})
			t.Logf("%s, %d answered %s", r.Ended, r.Ended.Answered, r.Ended.Blind)
			if tt.stop && r.Ended.Answered == 0 {
				t.Error("nothing was in flight")
			}
			v.repaired(t)
		})
	}
}

func first(all []int) []int { return all[:1] }
func last(all []int) []int  { return all[len(all)-1:] }

// A share is taken from a guest that waits for it: the end of its virtiofsd is
// what lets the guest give the device back.
func TestDaemonIsTakenAway(t *testing.T) {
	w := bootedGuest(t)
	v := w.victim(t, "taken-away")
	t.Cleanup(func() { w.unwedge(t) })
	v.signal(t, syscall.SIGSTOP, last(v.processes(t))...)
	status := v.begin(t, "cat "+v.mount.Path+"/file")
	v.waitsInFUSE(t)
	ctx := limited(t, time.Minute)
	detached := make(chan error)
	go func() { detached <- w.host.Detach(ctx, v.device) }()
	if err := v.daemons.Stop(ctx, v.daemon, 20*time.Second); err != nil {
		t.Error(err)
	}
	if err := <-detached; err != nil {
		t.Error(err)
	}
	wait.Until(t, "the guest's task fails", func() bool { is, err := status(t.Context()); return err == nil && is.Exited && is.ExitCode != 0 })
	if err := w.host.GuestUnmount(ctx, v.mount); err != nil {
		t.Error(err)
	}
}

// A virtiofsd is asked for something when its guest mounts the share, and not
// before; that it was stays known when the queues begin anew.
func TestAskedWhenMounted(t *testing.T) {
	w := bootedGuest(t)
	ds, d := daemon(t, t.TempDir())
	ctx := limited(t, time.Minute)
	device := Device{Instance: guestUUID, Alias: AliasPrefix + "asked", Tag: "asked", Socket: d.Socket()}
	mount := GuestMount{Instance: guestUUID, Tag: "asked", Path: "/mnt/asked"}
	if err := w.host.Attach(ctx, device); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the guest has the device", func() bool {
		_, err := w.host.guest(guestUUID).exec(ctx, "sh", "-c", "ls -d /sys/bus/virtio/drivers/virtiofs/virtio*")
		return err == nil
	})
	pause := func() error { return errors.Join(w.guest.Suspend(), w.guest.Resume()) }
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"plugged in", func() error { return nil }, false},
		{"suspended and resumed", pause, false},
		{"mounted", func() error { return w.host.GuestMount(ctx, mount) }, true},
		{"unmounted", func() error { return w.host.GuestUnmount(ctx, mount) }, true},
		{"suspended and resumed again", pause, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if asked, err := ds.Asked(d); asked != step.want || err != nil {
			t.Errorf("%s: asked %v, %v", step.name, asked, err)
		}
	}
	if err := w.host.Detach(ctx, device); err != nil {
		t.Error(err)
	}
}
