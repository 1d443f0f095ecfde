package generations

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/programs"
	"github.com/causeway-project/causeway/integration/wait"
)

// able is a finding of one ability of this host's virtiofsd. The agent says
// whether it has it. Where it has, find must see it at work; where not, an
// attachment that asks for it must be refused.
func able(ability string, ask *nodev1.Attachment, find func(context.Context, seat, *nodev1.Attachment) string) finding {
	return finding{"`" + ability + "`", func(ctx context.Context, s seat) string {
		node, err := s.node.Get(ctx, &nodev1.GetNodeRequest{})
		s.must(err)
		ask := proto.CloneOf(ask)
		ask.Id = strings.ReplaceAll(ability, "_", "-")
		if slices.Contains(node.GetVirtiofsd().GetAbilities(), ability) {
			return find(ctx, s, ask)
		}
		ask.Connection, _ = s.share(ask.GetId())
		if err := s.try(ctx, ask); reasonOf(err) != "virtiofsd_unable" {
			s.Errorf("it lacks %s, and an attachment with it is answered with %v, want virtiofsd_unable", ability, err)
		}
		return "no"
	}}
}

func asks(settings *nodev1.DeviceSettings) *nodev1.Attachment {
	return &nodev1.Attachment{Settings: settings}
}

// What attachments can, through the agent, with a guest.
var abilities = []finding{
	{"a share is attached, mounted, read, written and detached", func(ctx context.Context, s seat) string {
		connection, dir := s.share("life")
		s.write(dir+"/host", "by the host")
		a := s.attach(ctx, &nodev1.Attachment{Id: "life", Connection: connection, MountAt: "/mnt/life"})
		if a.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
			s.Errorf("guest is %v, want mounted; status %v", a.GetGuest(), a.GetStatus())
		}
		if got := s.in(ctx, "cat /mnt/life/host; echo by the guest >/mnt/life/guest"); got != "by the host" {
			s.Errorf("the guest reads %q", got)
		}
		if got, err := os.ReadFile(dir + "/guest"); err != nil || string(got) != "by the guest\n" {
			s.Errorf("the host reads %q, %v", got, err)
		}
		return "yes"
	}},
	{"of a read-only share, the guest", func(ctx context.Context, s seat) string {
		connection, dir := s.share("reader")
		s.write(dir+"/a", "a")
		s.attach(ctx, &nodev1.Attachment{Id: "reader", Connection: connection, ReadOnly: true, MountAt: "/mnt/reader"})
		return s.said(ctx, "mount -o remount,rw /mnt/reader; cat /mnt/reader/a >/dev/null && echo >/mnt/reader/a")
	}},
	able("cache_auto", asks(&nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_AUTO}), stale),
	able("cache_always", asks(&nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_ALWAYS}), stale),
	able("cache_never", asks(&nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_NEVER}), stale),
	able("cache_metadata", asks(&nodev1.DeviceSettings{Cache: nodev1.Cache_CACHE_METADATA}), stale),
	{"without `xattr`, to set one", func(ctx context.Context, s seat) string {
		dir := s.mounted(ctx, &nodev1.Attachment{Id: "no-xattr"})
		s.write(dir+"/f", "")
		return s.said(ctx, "/tmp/probe set-xattr /mnt/no-xattr/f user.cw one")
	}},
	able("xattr", asks(&nodev1.DeviceSettings{Xattr: proto.Bool(true)}), func(ctx context.Context, s seat, a *nodev1.Attachment) string {
		dir := s.mounted(ctx, a)
		s.write(dir+"/f", "")
		if got := s.in(ctx, "/tmp/probe set-xattr /mnt/xattr/f user.cw one; /tmp/probe get-xattr /mnt/xattr/f user.cw"); got != "one" {
			s.Errorf("the guest reads %q", got)
		}
		value := make([]byte, 16)
		if n, err := unix.Getxattr(dir+"/f", "user.cw", value); err != nil || string(value[:n]) != "one" {
			s.Errorf("the host reads %q, %v", value, err)
		}
		return "yes"
	}),
	able("posix_acl", asks(&nodev1.DeviceSettings{PosixAcl: proto.Bool(true)}), func(ctx context.Context, s seat, a *nodev1.Attachment) string {
		dir := s.mounted(ctx, a)
		s.write(dir+"/f", "text")
		s.must(os.Chmod(dir+"/f", 0o600))
		if got := s.in(ctx, "/tmp/probe set-acl /mnt/posix-acl/f 1001; /tmp/probe read-as 1001 /mnt/posix-acl/f"); got != "text" {
			s.Errorf("whom the list names reads %q", got)
		}
		if out, err := s.guest.Shell(ctx, "/tmp/probe read-as 1002 /mnt/posix-acl/f"); err == nil {
			s.Errorf("whom the list does not name reads %q", out)
		}
		if _, err := unix.Getxattr(dir+"/f", "system.posix_acl_access", make([]byte, 256)); err != nil {
			s.Errorf("the list is not on the host: %v", err)
		}
		return "yes"
	}),
	{"with `locks` local, what the guest locks", func(ctx context.Context, s seat) string {
		return locked(ctx, s, &nodev1.Attachment{Id: "local-locks"})
	}},
	able("shared_locks", asks(&nodev1.DeviceSettings{Locks: nodev1.Locks_LOCKS_SHARED}), locked),
	able("threads", asks(&nodev1.DeviceSettings{Threads: 4}), func(ctx context.Context, s seat, a *nodev1.Attachment) string {
		dir := s.mounted(ctx, a)
		s.write(dir+"/other", "read")
		s.write(dir+"/held", "")
		// What writes to a frozen file system waits for its thaw.
		pool, err := os.Open(s.pool.Dir)
		s.must(err)
		defer func() { _ = pool.Close() }()
		s.must(unix.IoctlSetInt(int(pool.Fd()), fifreeze, 0))
		thaw := func() { s.must(unix.IoctlSetInt(int(pool.Fd()), fithaw, 0)) }
		_, err = s.guest.Shell(ctx, "(echo >/mnt/threads/held; echo >/tmp/threads-wrote) >/dev/null 2>&1 &")
		short, cancel := context.WithTimeout(ctx, wait.Long)
		defer cancel()
		out, readErr := s.guest.Shell(short, "cat /mnt/threads/other; ls /tmp/threads-wrote 2>/dev/null")
		thaw()
		s.must(err)
		if strings.TrimSpace(out) != "read" {
			s.Errorf("beside a write that waits the guest reads %q, %v", out, readErr)
		}
		s.must(wait.For(ctx, func() (bool, error) {
			_, err := s.guest.Shell(ctx, "ls /tmp/threads-wrote")
			return err == nil, err
		}))
		// The one in C had threads too, and died of them at this.
		s.fill(dir, 100)
		for range 5 {
			s.in(ctx, "ls -l /mnt/threads >/dev/null; echo 2 >/proc/sys/vm/drop_caches; cat /mnt/threads/other")
		}
		return "yes"
	}),
	able("squash_ids", &nodev1.Attachment{Ids: &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Squash{Squash: &nodev1.IdSquash{Uid: 1234, Gid: 1235}}}}, owned(1234, 1235)),
	able("map_ids", &nodev1.Attachment{Ids: &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: &nodev1.IdMap{
		Uids: []*nodev1.IdRange{{Host: 100000, Count: 65536}}, Gids: []*nodev1.IdRange{{Host: 200000, Count: 65536}},
	}}}}, owned(100000, 200000)),
	{"a queue of 256", func(ctx context.Context, s seat) string {
		s.mounted(ctx, &nodev1.Attachment{Id: "queue", Settings: &nodev1.DeviceSettings{QueueSize: 256}})
		tree, err := s.virsh(ctx, "qemu-monitor-command", s.guest.Name, "--hmp", "info qtree")
		s.must(err)
		_, device, _ := strings.Cut(tree, "vhost-user-fs-device")
		if !strings.Contains(device, "queue-size = 256 ") {
			return "no"
		}
		return "yes"
	}},
	{"a file system that is mounted below the share on the host later on", func(ctx context.Context, s seat) string {
		dir := s.mounted(ctx, &nodev1.Attachment{Id: "below"})
		s.must(os.Mkdir(dir+"/sub", 0o755))
		s.must(unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, ""))
		defer func() { s.must(unix.Unmount(dir+"/sub", unix.MNT_DETACH)) }()
		s.write(dir+"/sub/deep", "deep")
		switch out, err := s.guest.Shell(ctx, "cat /mnt/below/sub/deep && grep -c ' /mnt/below/sub ' /proc/mounts"); {
		case err == nil && strings.HasPrefix(out, "deep"):
			return "is a mount in the guest too"
		case strings.HasPrefix(out, "deep"):
			return "is a directory in the guest"
		}
		return "is an empty directory in the guest"
	}},
	{"files that the daemon has open when the guest knows of 500", func(ctx context.Context, s seat) string {
		dir := s.mounted(ctx, &nodev1.Attachment{Id: "many"})
		s.fill(dir, 500)
		s.in(ctx, "ls -l /mnt/many >/dev/null")
		return scale(openFiles(s))
	}},
	{"with `--readonly`, on a share that can be written, the guest", func(ctx context.Context, s seat) string {
		if _, err := os.Stat(rust); err != nil {
			return "no such option"
		}
		h := s.daemon(ctx, "--readonly")
		_, err := s.virsh(ctx, "attach-device", s.guest.Name, h.device(s, "self", ""), "--live")
		s.must(err)
		s.must(s.guest.MountVirtiofs(ctx, "self", "/mnt/self"))
		found := s.said(ctx, "echo >/mnt/self/a")
		s.in(ctx, "umount /mnt/self")
		h.unplug(ctx, s)
		return found
	}},
}

// Of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// rust is where Debian has the virtiofsd in Rust.
const rust = "/usr/libexec/virtiofsd"

func (s seat) write(file, text string) {
	s.Helper()
	s.must(os.WriteFile(file, []byte(text), 0o644))
}

func (s seat) fill(dir string, files int) {
	s.Helper()
	for i := range files {
		s.write(filepath.Join(dir, "f"+strconv.Itoa(i)), "")
	}
}

// mounted attaches a directory of the pool, mounted at /mnt and the id.
func (s seat) mounted(ctx context.Context, a *nodev1.Attachment) (dir string) {
	s.Helper()
	a.Connection, dir = s.share(a.GetId())
	a.MountAt = "/mnt/" + a.GetId()
	s.attach(ctx, a)
	return dir
}

// said is what the last command of a script in the guest complained of.
func (s seat) said(ctx context.Context, script string) string {
	s.Helper()
	_, err := s.guest.Shell(ctx, script+" 2>&1")
	if err == nil {
		return "succeeds"
	}
	out, _ := s.guest.Shell(ctx, "("+script+") 2>&1 | tail -n 1")
	words := strings.Split(strings.TrimSpace(out), ": ")
	return "fails: " + strings.ToLower(words[len(words)-1])
}

// stale is what a guest that has read a file sees of its change on the host.
// The share has another attachment with the default cache, which tells when the
// second of that one is over.
func stale(ctx context.Context, s seat, a *nodev1.Attachment) string {
	dir := s.mounted(ctx, a)
	s.attach(ctx, &nodev1.Attachment{Id: a.GetId() + "-clock", Connection: a.GetConnection(), ReadOnly: true, MountAt: "/mnt/clock"})
	s.write(dir+"/f", "old")
	at := a.GetMountAt() + "/f"
	// To have read makes the guest ask for the attributes once more, for the
	// time of access is among them.
	s.in(ctx, "cat "+at+" /mnt/clock/f; stat "+at+" /mnt/clock/f")
	s.write(dir+"/f", "newer")
	// One that is after a second now and then comes at once.
	if s.in(ctx, "stat -c %s "+at) == "5" && a.GetSettings().GetCache() != nodev1.Cache_CACHE_AUTO {
		if got := s.in(ctx, "cat "+at); got != "newer" {
			s.Errorf("with the new size it reads %q", got)
		}
		return "the guest sees changes of others at once"
	}
	s.must(wait.For(ctx, func() (bool, error) { return s.in(ctx, "stat -c %s /mnt/clock/f") == "5", nil }))
	switch got := s.in(ctx, "stat -c %s "+at+"; cat "+at); got {
	case "5\nnewer":
		return "the guest sees changes of others after a second"
	case "3\nold":
		return "the guest does not see changes of others"
	case "3\nnewer":
		return "the guest sees others' changes of contents, not of sizes"
	default:
		return fmt.Sprintf("the guest sees %q", got)
	}
}

// locked is who meets a lock that a program in the guest has on a file.
func locked(ctx context.Context, s seat, a *nodev1.Attachment) string {
	dir := s.mounted(ctx, a)
	s.write(dir+"/f", "")
	s.in(ctx, "/tmp/probe lock "+a.GetMountAt()+"/f >/tmp/"+a.GetId()+" 2>&1 &")
	defer s.in(ctx, "killall probe")
	s.must(wait.For(ctx, func() (bool, error) {
		out, err := s.guest.Shell(ctx, "cat /tmp/"+a.GetId())
		if err == nil && out != "" && out != "locked\n" {
			s.Fatalf("the guest locks: %s", out)
		}
		return out == "locked\n", err
	}))
	f, err := os.OpenFile(dir+"/f", os.O_RDWR, 0)
	s.must(err)
	defer func() { _ = f.Close() }()
	flock := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	fcntl := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	switch {
	case flock == nil && fcntl == nil:
		return "is free on the host"
	case errors.Is(flock, syscall.EAGAIN) && errors.Is(fcntl, syscall.EAGAIN):
		return "is locked on the host, by flock and by fcntl"
	}
	return fmt.Sprintf("flock on the host says %v, fcntl %v", flock, fcntl)
}

// owned is whose a file is that user 7 and group 0 of the guest make on a share
// of uid and gid.
func owned(uid, gid int) func(context.Context, seat, *nodev1.Attachment) string {
	return func(ctx context.Context, s seat, a *nodev1.Attachment) string {
		var dir string
		a.Connection, dir = s.share(a.GetId())
		// Nobody writes to a directory whose owner is not in the map.
		s.must(os.Chown(dir, uid, gid))
		a.MountAt = "/mnt/" + a.GetId()
		s.attach(ctx, a)
		guest := s.in(ctx, "/tmp/probe write-as 7 "+a.GetMountAt()+"/f text; stat -c %u:%g "+a.GetMountAt()+"/f")
		info, err := os.Stat(dir + "/f")
		s.must(err)
		is := info.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("a file that 7:0 makes is %s in the guest, and %d:%d on the share", guest, is.Uid, is.Gid)
	}
}

// openFiles of the virtiofsd that has the most.
func openFiles(s seat) int {
	s.Helper()
	most := 0
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	s.must(err)
	for _, file := range list {
		command, err := os.ReadFile(file)
		if program, _, _ := strings.Cut(string(command), "\x00"); err != nil || filepath.Base(program) != "virtiofsd" {
			continue
		}
		if fds, err := os.ReadDir(filepath.Join(filepath.Dir(file), "fd")); err == nil {
			most = max(most, len(fds))
		}
	}
	return most
}

// scale leaves out what differs from run to run.
func scale(files int) string {
	if files > 500 {
		return "more than 500"
	}
	if files < 50 {
		return "less than 50"
	}
	return strconv.Itoa(files)
}

// probe is built and brought into the guest, as /tmp/probe.
func (s seat) probe(ctx context.Context) error {
	// Not into the pool, which the compilers of the host do not see.
	temporary, err := lab.TempDir()
	if err != nil {
		return err
	}
	if err := programs.Build(ctx, programs.Options{Dir: temporary, Packages: []string{"integration/generations/probe"}}); err != nil {
		return err
	}
	dir := s.mounted(ctx, &nodev1.Attachment{Id: "tools"})
	if out, err := exec.CommandContext(ctx, "cp", filepath.Join(temporary, "probe"), dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy probe: %w: %s", err, out)
	}
	if _, err := s.guest.Shell(ctx, "cp /mnt/tools/probe /tmp/probe"); err != nil {
		return err
	}
	// The first test has the guest to itself, as the others do.
	_, err = s.attachments.Detach(ctx, &nodev1.DetachRequest{Id: "tools"})
	return err
}
