package generations

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"libvirt.org/go/libvirt"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// migration is live, to a second host, where the instance is suspended first, and
// back, with a file of the share open that the guest writes to.
var migration = finding{"an instance migrates with a share in it that it uses", func(ctx context.Context, s seat) string {
	other, err := lab.StartOtherLibvirt(ctx)
	s.must(err)
	defer func() { s.must(other.Close()) }()
	agent, err := lab.NewAgent(lab.AgentOptions{Programs: s.agent.Programs, Pools: map[string]string{"default": s.pool.Dir}, Libvirt: other.URI, Name: "b"})
	s.must(err)
	s.must(agent.Start(ctx))
	conn, err := agent.Connect()
	s.must(err)
	defer func() { s.must(errors.Join(conn.Close(), agent.Close())) }()
	// As on real hosts: a QEMU that comes is let in by the agent that hears of it.
	s.must(errors.Join(s.libvirt.InstallHook(ctx, s.agent), other.InstallHook(ctx, agent)))
	defer func() { s.must(s.libvirt.RemoveHook(context.WithoutCancel(ctx))) }()
	connection, dir := s.share("moving")
	at := &nodev1.Attachment{Id: "moving", Connection: connection, MountAt: "/mnt/moving"}
	s.attach(ctx, at)
	writer, err := s.guest.StartWriter(ctx, "/mnt/moving/log", 20*time.Millisecond)
	s.must(err)

	at.Instance = s.guest.UUID
	here := host{s.agent, s.attachments, s.guest, s.libvirt, false}
	there := host{agent, nodev1.NewAttachmentsClient(conn), s.guest.On(other), other, true}
	err = s.follow(ctx, at, here, there)
	if refused := (libvirt.Error{}); errors.As(err, &refused) {
		s.must(writer.WaitMore(ctx, 5))
		_, err := writer.Stop(ctx)
		s.must(err)
		return "refused: " + regexp.MustCompile(`process exited while connecting to monitor: .*: `).ReplaceAllString(withoutAddress(refused.Message), "the destination's QEMU ends: ")
	}
	s.must(err)
	s.must(writer.On(there.guest).WaitMore(ctx, 20))
	s.must(s.follow(ctx, at, there, here))
	s.must(writer.WaitMore(ctx, 20))
	p, err := writer.Stop(ctx)
	s.must(err)
	f, err := os.Open(filepath.Join(dir, "log"))
	s.must(err)
	defer func() { _ = f.Close() }()
	if err := lab.CheckLines(f, p.Lines); err != nil {
		s.Error(err)
	}
	s.Logf("%d lines there and back, the slowest took %s", p.Lines, p.Longest)
	return "yes"
}}

// withoutAddress is what libvirt said without a device's place on the bus, which
// differs each time.
func withoutAddress(said string) string {
	return regexp.MustCompile(`[0-9a-f]{4}:[0-9a-f:.]+/`).ReplaceAllString(said, "")
}

// A host is one side of a migration.
type host struct {
	agent       *lab.Agent
	attachments nodev1.AttachmentsClient
	guest       *lab.Guest
	libvirt     *lab.Libvirt
	suspends    bool // what comes is suspended first, as with virsh migrate --suspend
}

// follow migrates the instance with its share. libvirt's refusal is the error,
// and all is then as before.
func (s seat) follow(ctx context.Context, at *nodev1.Attachment, from, to host) error {
	s.Helper()
	_, err := to.attachments.Prepare(ctx, &nodev1.PrepareAttachmentRequest{Attachment: at, ExpiresAt: timestamppb.New(time.Now().Add(time.Minute))})
	s.must(err)
	detach := func(h host) {
		_, err := h.attachments.Detach(ctx, &nodev1.DetachRequest{Id: at.GetId()})
		s.must(err)
	}
	begin := time.Now()
	// Real hosts have one path for it, and nothing is to be edited.
	if _, err := from.guest.Migrate(to.libvirt, lab.MigrateOptions{Paused: to.suspends, Edit: func(xml string) string {
		return strings.ReplaceAll(xml, from.agent.RunDir+"/", to.agent.RunDir+"/")
	}}); err != nil {
		detach(to)
		return err
	}
	s.Logf("migrated in %s", time.Since(begin))
	finish := func() (*nodev1.FinishAttachmentResponse, error) {
		return to.attachments.Finish(ctx, &nodev1.FinishAttachmentRequest{Id: at.GetId()})
	}
	if to.suspends {
		// It ends, though nobody can be asked in the guest yet.
		_, err := finish()
		s.must(errors.Join(err, to.guest.Resume(), to.guest.WaitAgent(ctx)))
	}
	r, err := finish()
	s.must(err)
	if got := r.GetAttachment(); got.GetStatus().GetPhase() != nodev1.Phase_PHASE_READY || got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
		s.Errorf("after the move it is %v", got)
	}
	s.Logf("finished after %s", time.Since(begin))
	detach(from)
	return nil
}
