package generations

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// saved are the ways in which what is in an instance's memory goes to a file,
// and another QEMU goes on with it.
var saved = []finding{
	{"`virsh managedsave` and `start` of an instance that writes to a share", func(ctx context.Context, s seat) string {
		u := s.using(ctx, "saved")
		if _, err := s.virsh(ctx, "managedsave", s.guest.Name); err != nil {
			u.goesOn(ctx)
			return refused(err)
		}
		s.must(wait.For(ctx, func() (bool, error) {
			// It goes last.
			left, err := os.ReadDir(filepath.Join(s.agent.RunDir, "mounts"))
			return err == nil && len(left) == 0, errors.Join(err, fmt.Errorf("%v", left))
		}))
		start := func() error { _, err := s.virsh(ctx, "start", s.guest.Name); return err }
		without := start()
		defer u.hook(ctx)()
		log := filepath.Join(u.dir, "log")
		s.must(os.Rename(log, log+".away"))
		gone := start()
		s.must(os.Rename(log+".away", log))
		s.must(start())
		u.goesOn(ctx)
		return fmt.Sprintf("yes; without the hook %s; where a file is gone that it has open %s", refused(without), refused(gone))
	}},
	{"`virsh snapshot-create-as` with memory, and `snapshot-revert`, of an instance that uses a share", func(ctx context.Context, s seat) string {
		u := s.using(ctx, "snapshot")
		defer u.hook(ctx)()
		dir, err := lab.TempDir()
		s.must(err)
		s.must(os.Chmod(dir, 0o777)) // QEMU need not be root
		if _, err := s.virsh(ctx, "snapshot-create-as", s.guest.Name, "before", "--memspec", "file="+dir+"/memory"); err != nil {
			u.goesOn(ctx)
			return refused(err)
		}
		// What comes after the snapshot is on the share, and stays there.
		s.in(ctx, "echo later >/mnt/snapshot/later")
		s.must(u.writer.WaitMore(ctx, 10))
		_, err = s.virsh(ctx, "snapshot-revert", s.guest.Name, "before")
		s.must(err)
		u.goesOn(ctx)
		if got := s.in(ctx, "cat /mnt/snapshot/later"); got != "later" {
			s.Errorf("after the revert it reads %q", got)
		}
		_, err = s.virsh(ctx, "snapshot-delete", s.guest.Name, "before")
		s.must(err)
		return "yes"
	}},
}

// refused is what libvirt said, without what differs each time.
func refused(err error) string {
	if err == nil {
		return "yes"
	}
	// What is left of a socket differs, too.
	no := regexp.MustCompile(`internal error: process exited .*: Failed to connect to '.*/sock': .*`)
	return "refused: " + no.ReplaceAllString(withoutAddress(err.Error()), "QEMU ends: Failed to connect to the socket")
}

// A user is the guest with a share that a program of its writes to.
type user struct {
	seat
	id     string
	dir    string // on the host
	boot   string
	writer *lab.Writer
}

func (s seat) using(ctx context.Context, id string) user {
	s.Helper()
	u := user{seat: s, id: id}
	at := &nodev1.Attachment{Id: id, MountAt: "/mnt/" + id}
	at.Connection, u.dir = s.share(id)
	s.attach(ctx, at)
	u.boot = u.bootID(ctx)
	var err error
	u.writer, err = s.guest.StartWriter(ctx, at.GetMountAt()+"/log", 20*time.Millisecond)
	s.must(err)
	return u
}

func (u user) bootID(ctx context.Context) string {
	u.Helper()
	return u.in(ctx, "cat /proc/sys/kernel/random/boot_id")
}

func (u user) attachment(ctx context.Context) *nodev1.Attachment {
	u.Helper()
	r, err := u.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: u.id})
	if err != nil {
		return nil // libvirt or the agent is being started
	}
	return r.GetAttachment()
}

// hook has libvirt tell the agent of starts, until remove.
func (u user) hook(ctx context.Context) (remove func()) {
	u.Helper()
	u.must(u.libvirt.InstallHook(ctx, u.agent))
	return func() { u.must(u.libvirt.RemoveHook(context.WithoutCancel(ctx))) }
}

// goesOn fails unless it is the same guest, with the same file open.
func (u user) goesOn(ctx context.Context) {
	u.Helper()
	u.must(u.guest.WaitAgent(ctx))
	if now := u.bootID(ctx); now != u.boot {
		u.Error("the guest has booted anew")
	}
	u.must(u.writer.WaitMore(ctx, 20))
	p, err := u.writer.Stop(ctx)
	u.must(err)
	f, err := os.Open(filepath.Join(u.dir, "log"))
	u.must(err)
	defer func() { _ = f.Close() }()
	// Of the time before a revert the guest knows nothing: it writes those lines
	// over themselves, where it believes the end to be.
	if err := lab.CheckLines(f, p.Lines); err != nil {
		u.Error(err)
	}
	u.must(wait.For(ctx, func() (bool, error) {
		a := u.attachment(ctx)
		return a.GetStatus().GetPhase() == nodev1.Phase_PHASE_READY && a.GetGuest() == nodev1.GuestState_GUEST_STATE_MOUNTED, errors.New(a.String())
	}))
}
