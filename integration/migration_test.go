package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestBadMoves refuses what cannot move.
func TestBadMoves(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	n.attach(ctx, attached("good", "docs"))
	later := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(d)) }
	prepare := func(instance string, expires *timestamppb.Timestamp, change func(*nodev1.Attachment)) *nodev1.PrepareAttachmentRequest {
		return &nodev1.PrepareAttachmentRequest{ExpiresAt: expires, Attachment: withAttachment(func(a *nodev1.Attachment) {
			a.Instance = instance
			if change != nil {
				change(a)
			}
		})}
	}
	release := func(id string, expires *timestamppb.Timestamp) *nodev1.ReleaseAttachmentRequest {
		return &nodev1.ReleaseAttachmentRequest{Id: id, ExpiresAt: expires}
	}
	const absent = "8c5b4ff3-6d52-4d4c-9bb1-000000000001"
	invalid := func(reason string) refusal { return refusal{codes.InvalidArgument, reason} }
	unknown := refusal{codes.NotFound, "unknown_id"}
	n.refuse(ctx, []badCall{
		{"prepare for a name", prepare("vm1", inTenMinutes(), nil), invalid("bad_instance"), "virsh domuuid"},
		{"prepare for a UUID in capitals", prepare(strings.ToUpper(absent), inTenMinutes(), nil), invalid("bad_instance"), "in lower case"},
		{"prepare for an instance that is here", prepare(w.guest.UUID, inTenMinutes(), nil), refusal{codes.FailedPrecondition, "instance_here"}, "attach the share"},
		{"prepare nothing", &nodev1.PrepareAttachmentRequest{ExpiresAt: inTenMinutes()}, invalid("field_required"), "set it"},
		{"prepare for ever", prepare(absent, nil, nil), invalid("bad_expiry"), "minutes from now"},
		{"prepare until the past", prepare(absent, later(-time.Minute), nil), invalid("bad_expiry"), "clocks agree"},
		{"prepare for two days", prepare(absent, later(48*time.Hour), nil), invalid("bad_expiry"), "within 24h"},
		{"prepare until no time", prepare(absent, &timestamppb.Timestamp{Nanos: -1}, nil), invalid("field_malformed"), "correct it"},
		{"prepare a share that is not there", prepare(absent, inTenMinutes(), func(a *nodev1.Attachment) { a.Connection = local("missing") }),
			refusal{codes.NotFound, "share_not_found"}, "create it"},
		{"prepare with another's id", prepare(absent, inTenMinutes(), func(a *nodev1.Attachment) { a.Id = "good" }),
			refusal{codes.AlreadyExists, "other_settings"}, "delete it first"},
		{"release nothing", release("nothing", inTenMinutes()), unknown, "list them"},
		{"release for ever", release("good", nil), invalid("bad_expiry"), "minutes from now"},
		{"release for two days", release("good", later(48*time.Hour)), invalid("bad_expiry"), "within 24h"},
		{"release without an id", release("", inTenMinutes()), invalid("field_required"), "set it"},
		{"finish nothing", &nodev1.FinishAttachmentRequest{Id: "nothing"}, unknown, "list them"},
		{"roll nothing back", &nodev1.RollbackAttachmentRequest{Id: "nothing"}, unknown, "list them"},
	})

	// What waits for an instance is not what gave one up, and the other way round.
	_, err := n.attachments.Prepare(ctx, prepare(absent, inTenMinutes(), func(a *nodev1.Attachment) { a.Id, a.Tag, a.ReadOnly = "coming", "coming", true }))
	n.must(err)
	_, err = n.attachments.Release(ctx, release("good", inTenMinutes()))
	n.must(err)
	waits, released := refusal{codes.FailedPrecondition, "instance_awaited"}, refusal{codes.FailedPrecondition, "released"}
	n.refuse(ctx, []badCall{
		{"release what has not come", release("coming", inTenMinutes()), waits, "delete the attachment"},
		{"roll back what has not come", &nodev1.RollbackAttachmentRequest{Id: "coming"}, waits, "roll back at the source"},
		{"finish what was released", &nodev1.FinishAttachmentRequest{Id: "good"}, released, "roll back"},
		{"attach what was released", attached("good", "docs"), released, "roll back"},
	})
	n.detach(ctx, "coming")
	n.detach(ctx, "good")
	n.finish(ctx)
}

// A migration is an instance of its own, and two hosts for it: a libvirt and an
// agent each.
type migration struct {
	t     *testing.T
	hosts [2]*node
	at    int // which of the hosts the instance is on
	dir   string
}

// migrating boots the instance on the first of two hosts, and starts an agent
// on both, which can be killed at their crash points.
func (w *world) migrating(ctx context.Context, t *testing.T) *migration {
	t.Helper()
	programs, err := lab.Build(ctx, lab.BuildOptions{CrashPoints: true})
	if err != nil {
		t.Fatal(err)
	}
	m := &migration{t: t, dir: w.share(t, "docs")}
	other, err := lab.StartOtherLibvirt(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	guest, err := w.libvirt.Boot(ctx, lab.GuestOptions{Name: "mover", Ports: 4})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range []*lab.Libvirt{w.libvirt, other} {
		host := *w
		host.libvirt, host.guest = l, guest.On(l)
		m.hosts[i] = host.started(ctx, t, lab.AgentOptions{Programs: programs, Libvirt: l.URI, Name: []string{"", "b"}[i]})
	}
	t.Cleanup(func() {
		if err := m.here().guest.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *migration) here() *node  { return m.hosts[m.at] }
func (m *migration) there() *node { return m.hosts[1-m.at] }

// within is the same in a subtest, which begins with the instance on the first
// host, and ends with nothing on either.
func (m *migration) within(ctx context.Context, t *testing.T) (_ *migration, a, b *node) {
	sub := &migration{t: t, dir: m.dir, at: m.at}
	for i, n := range m.hosts {
		sub.hosts[i] = n.within(t)
	}
	if sub.at == 1 {
		sub.migrate()
	}
	t.Cleanup(func() {
		m.at = sub.at
		for _, n := range sub.hosts {
			n.settles(context.WithoutCancel(ctx), n.before)
		}
	})
	return sub, sub.hosts[0], sub.hosts[1]
}

// migrate moves the instance to the other host.
func (m *migration) migrate() {
	m.t.Helper()
	if _, err := m.here().guest.Migrate(m.there().libvirt, lab.MigrateOptions{}); err != nil {
		m.t.Fatal(err)
	}
	m.at = 1 - m.at
}

const moverID = "docs-mover"

func (m *migration) attachment() *nodev1.Attachment {
	return &nodev1.Attachment{Id: moverID, Instance: m.here().guest.UUID, Connection: local("docs"), Tag: "docs", MountAt: "/mnt/docs"}
}

func inTenMinutes() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(10 * time.Minute)) }

func (n *node) prepare(ctx context.Context, a *nodev1.Attachment, expires *timestamppb.Timestamp) (*nodev1.Attachment, error) {
	r, err := n.attachments.Prepare(ctx, &nodev1.PrepareAttachmentRequest{Attachment: a, ExpiresAt: expires})
	return r.GetAttachment(), err
}

// release repeats the call while the guest's writer holds a file open.
func (n *node) release(ctx context.Context, expires *timestamppb.Timestamp) (*nodev1.Attachment, error) {
	for {
		r, err := n.attachments.Release(ctx, &nodev1.ReleaseAttachmentRequest{Id: moverID, ExpiresAt: expires})
		if got, _, _ := refusalOf(err); err == nil || got.reason != "guest_busy" || ctx.Err() != nil {
			return r.GetAttachment(), err
		}
	}
}

func (n *node) finishMove(ctx context.Context) (*nodev1.Attachment, error) {
	r, err := n.attachments.Finish(ctx, &nodev1.FinishAttachmentRequest{Id: moverID})
	return r.GetAttachment(), err
}

func (n *node) rollback(ctx context.Context) (*nodev1.Attachment, error) {
	r, err := n.attachments.Rollback(ctx, &nodev1.RollbackAttachmentRequest{Id: moverID})
	return r.GetAttachment(), err
}

// stands fails the test unless an attachment is in a phase, for a reason.
func stands(t *testing.T, a *nodev1.Attachment, err error, phase nodev1.Phase, reason string) {
	t.Helper()
	if s := a.GetStatus(); err != nil || s.GetPhase() != phase || s.GetReason() != reason || s.GetGeneration() != s.GetObservedGeneration() {
		t.Fatalf("attachment is %v, %v; want %v %q", s, err, phase, reason)
	}
}

// write has the instance append its uptime to a file of the share, again and
// again, while the share is there.
func (m *migration) write(ctx context.Context) {
	m.t.Helper()
	m.here().in(ctx, `(while [ ! -e /tmp/stop ]; do
		read now rest </proc/uptime; [ -e /mnt/docs/hello ] && echo $now >>/mnt/docs/log; usleep 20000
	done) >/dev/null 2>&1 </dev/null &`)
	m.more(ctx)
}

// more waits until the instance has written some lines more.
func (m *migration) more(ctx context.Context) {
	m.t.Helper()
	before := len(m.lines())
	until(ctx, m.t, "the instance writes no more", func() (bool, error) { return len(m.lines()) > before+5, nil })
}

func (m *migration) lines() []string {
	data, _ := os.ReadFile(filepath.Join(m.dir, "log"))
	return strings.Fields(string(data))
}

// gap is the longest that the instance had no share, by its own clock.
func (m *migration) gap() time.Duration {
	m.t.Helper()
	var longest, last float64
	for i, line := range m.lines() {
		now, err := strconv.ParseFloat(line, 64)
		if err != nil || now < last {
			m.t.Errorf("line %d is %q after %v", i+1, line, last)
		}
		if i > 0 {
			longest = max(longest, now-last)
		}
		last = now
	}
	return time.Duration(longest * float64(time.Second))
}

// TestMigration moves an instance between two hosts, each with an agent, and
// its share with it.
func TestMigration(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 8*time.Minute)
	m := w.migrating(ctx, t)
	t.Run("writing", func(t *testing.T) { moveWriting(ctx, t, m) })
	t.Run("given up", func(t *testing.T) { moveGivenUp(ctx, t, m) })
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("nobody finishes, agents away %v", away), func(t *testing.T) { moveExpires(ctx, t, m, away) })
	}
	t.Run("killed on arrival", func(t *testing.T) { moveKilled(ctx, t, m) })
	for _, n := range m.hosts {
		n.finish(ctx)
	}
}

// moveWriting is the whole move, there and back, of an instance that uses its
// share as long as it has it.
func moveWriting(ctx context.Context, t *testing.T, m *migration) {
	m, a, _ := m.within(ctx, t)
	a.attach(ctx, m.attachment())
	m.write(ctx)
	for range 2 {
		a.must(os.Remove(filepath.Join(m.dir, "log")))
		m.more(ctx)
		_, err := m.there().prepare(ctx, m.attachment(), inTenMinutes())
		a.must(err)
		begin := time.Now()
		got, err := m.here().release(ctx, inTenMinutes())
		released := time.Now()
		stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
		m.migrate()
		migrated := time.Now()
		got, err = m.here().finishMove(ctx)
		finished := time.Now()
		stands(t, got, err, nodev1.Phase_PHASE_READY, "")
		if got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED || got.GetMove() != nil {
			t.Errorf("after the move it is %v", got)
		}
		m.there().detach(ctx, moverID)
		m.there().unchanged(ctx, m.there().before)
		m.more(ctx)
		t.Logf("release %s, migration %s, finish %s; the instance had no share for %s",
			released.Sub(begin), migrated.Sub(released), finished.Sub(migrated), m.gap())
	}
	a.in(ctx, "touch /tmp/stop")
	a.detach(ctx, moverID)
}

// moveGivenUp rolls back at each stage before the instance has gone.
func moveGivenUp(ctx context.Context, t *testing.T, m *migration) {
	m, a, b := m.within(ctx, t)
	a.attach(ctx, m.attachment())
	attached := a.state(ctx)

	// Prepared.
	got, err := b.prepare(ctx, m.attachment(), inTenMinutes())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "instance_awaited")
	prepared := b.state(ctx)
	for _, kind := range []string{"mount", "process"} {
		if len(prepared.Without(kind)) == len(prepared) {
			t.Errorf("prepared, without a %s:\n%s", kind, prepared)
		}
	}
	got, err = b.prepare(ctx, m.attachment(), inTenMinutes()) // once more
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "instance_awaited")
	b.unchanged(ctx, prepared)
	b.detach(ctx, moverID)
	b.unchanged(ctx, b.before)
	a.unchanged(ctx, attached)

	// Released.
	_, err = b.prepare(ctx, m.attachment(), inTenMinutes())
	b.must(err)
	got, err = a.release(ctx, inTenMinutes())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
	a.unchanged(ctx, a.before.With("ledger attachment/"+moverID+".json"))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = b.finishMove(short)
	cancel()
	if got, _, _ := refusalOf(err); got.code != codes.DeadlineExceeded {
		t.Errorf("finish before the instance has come: %v", err)
	}
	got, err = a.rollback(ctx)
	stands(t, got, err, nodev1.Phase_PHASE_READY, "")
	a.unchanged(ctx, attached)

	// The migration fails where QEMU ought to begin.
	got, err = a.release(ctx, inTenMinutes())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
	if _, err := a.guest.Migrate(b.libvirt, lab.MigrateOptions{Edit: withoutImage}); err == nil {
		t.Fatal("the instance migrated")
	}
	b.unchanged(ctx, prepared)
	got, err = a.rollback(ctx)
	stands(t, got, err, nodev1.Phase_PHASE_READY, "")
	a.unchanged(ctx, attached)
	b.detach(ctx, moverID)
	a.detach(ctx, moverID)
}

// withoutImage asks for a file that is not there.
func withoutImage(xml string) string { return strings.Replace(xml, "<initrd>", "<initrd>/missing", 1) }

// moveExpires is a move whose caller is gone, and whose agents are away when
// its time is over.
func moveExpires(ctx context.Context, t *testing.T, m *migration, away bool) {
	m, a, b := m.within(ctx, t)
	// Long enough for a busy machine to prepare, and to migrate, before.
	soon := func() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(5 * time.Second)) }
	absent := func(n *node, over *timestamppb.Timestamp) {
		if !away {
			return
		}
		n.kill()
		until(ctx, t, "its time is over", func() (bool, error) { return time.Now().After(over.AsTime()), nil })
		n.start(ctx)
	}
	a.attach(ctx, m.attachment())
	attached := a.state(ctx)

	// The instance stays, and each host is soon as it was.
	over := soon()
	_, err := b.prepare(ctx, m.attachment(), over)
	b.must(err)
	_, err = a.release(ctx, over)
	a.must(err)
	absent(a, over)
	absent(b, over)
	a.settles(ctx, attached)
	b.settles(ctx, b.before)

	// It goes, and each host is soon as it should be.
	_, err = b.prepare(ctx, m.attachment(), inTenMinutes())
	b.must(err)
	over = soon()
	_, err = a.release(ctx, over)
	a.must(err)
	if away {
		b.kill()
	}
	m.migrate()
	if away {
		b.start(ctx)
	}
	absent(a, over)
	a.settles(ctx, a.before)
	until(ctx, t, "it has the share", func() (bool, error) { return m.reads(ctx) })
	b.detach(ctx, moverID)
}

// reads says whether the instance has the share where it is.
func (m *migration) reads(ctx context.Context) (bool, error) {
	out, err := m.here().guest.Shell(ctx, "cat /mnt/docs/hello; grep -c /mnt/docs /proc/mounts")
	return strings.TrimSpace(out) == "from docs\n1", err
}

// moveKilled kills the agent of the destination at each crash point that it
// passes when the instance arrives.
func moveKilled(ctx context.Context, t *testing.T, m *migration) {
	m, a, _ := m.within(ctx, t)
	a.attach(ctx, m.attachment())
	trace := filepath.Join(t.TempDir(), "trace")
	a.must(os.Setenv("CAUSEWAY_CRASH_LOG", trace))
	defer func() { a.must(os.Unsetenv("CAUSEWAY_CRASH_LOG")) }()
	m.arrive(ctx, "")
	text, err := os.ReadFile(trace)
	a.must(err)
	a.must(os.Unsetenv("CAUSEWAY_CRASH_LOG"))
	points := passings(string(text))
	for _, p := range points {
		if p.nth == 1 {
			m.arrive(ctx, string(p.point))
		}
	}
	t.Logf("killed at %d points", len(points))
	m.here().detach(ctx, moverID)
}

// arrive moves the instance to the other host, whose agent is killed at a
// point, and nobody but its successor finishes the move.
func (m *migration) arrive(ctx context.Context, crashAt string) {
	m.t.Helper()
	from, to := m.here(), m.there()
	_, err := to.prepare(ctx, m.attachment(), inTenMinutes())
	to.must(err)
	_, err = from.release(ctx, inTenMinutes())
	from.must(err)
	to.kill()
	to.must(to.Launch(crashAt))
	if crashAt == "" {
		to.must(to.WaitInSync(ctx))
	}
	m.migrate()
	if crashAt != "" {
		dying, cancel := context.WithTimeout(ctx, wait.Long)
		if err := to.WaitKilled(dying); err != nil {
			m.t.Errorf("at %s: %v", crashAt, err)
			to.kill()
		}
		cancel()
		to.start(ctx)
	}
	got, err := to.finishMove(ctx)
	stands(m.t, got, err, nodev1.Phase_PHASE_READY, "")
	if ok, err := m.reads(ctx); !ok {
		m.t.Errorf("killed at %s, the instance does not have the share: %v", crashAt, err)
	}
	from.detach(ctx, moverID)
	from.settles(ctx, from.before)
}
