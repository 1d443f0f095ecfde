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
)

// A migration is an instance of its own, and two hosts for it: a libvirt and an
// agent each.
type migration struct {
	t     *testing.T
	hosts [2]*node
	at    int // which of the hosts the instance is on
	dir   string
}

// migrating boots the instance on the first of two hosts, and starts an agent
// on both.
func migrating(ctx context.Context, t *testing.T, o lab.AgentOptions) *migration {
	t.Helper()
	w := theWorld(t)
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
		o.Name, o.Libvirt = "", l.URI
		if i == 1 {
			o.Name = "b"
		}
		m.hosts[i] = host.started(ctx, t, o)
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

// in is the same in a subtest.
func (m *migration) in(t *testing.T) {
	m.t = t
	for _, n := range m.hosts {
		n.t = t
	}
}

// migrate moves the instance to the other host.
func (m *migration) migrate() {
	m.t.Helper()
	if _, err := m.here().guest.Migrate(m.there().libvirt); err != nil {
		m.t.Fatal(err)
	}
	m.at = 1 - m.at
}

const moverID = "docs-mover"

func (m *migration) attachment() *nodev1.Attachment {
	return &nodev1.Attachment{Id: moverID, Instance: m.here().guest.UUID, Connection: local("docs"), Tag: "docs", MountAt: "/mnt/docs"}
}

func until10m() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(10 * time.Minute)) }

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

// TestMoveInstance moves an instance that writes to its share to another host
// and back, and gives up at each stage before.
func TestMoveInstance(t *testing.T) {
	ctx := limited(t, 3*time.Minute)
	m := migrating(ctx, t, lab.AgentOptions{})
	a, b := m.hosts[0], m.hosts[1]
	empty := [2]lab.HostState{a.before, b.before}
	a.attach(ctx, m.attachment())
	attached := a.state(ctx)
	m.write(ctx)

	// Given up when the destination is prepared.
	got, err := b.prepare(ctx, m.attachment(), until10m())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "instance_awaited")
	prepared := b.state(ctx)
	for _, kind := range []string{"mount", "process"} {
		if len(prepared.Without(kind)) == len(prepared) {
			t.Errorf("prepared, without a %s:\n%s", kind, prepared)
		}
	}
	got, err = b.prepare(ctx, m.attachment(), until10m()) // once more
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "instance_awaited")
	b.unchanged(ctx, prepared)
	b.detach(ctx, moverID)
	b.unchanged(ctx, empty[1])
	m.more(ctx)

	// Given up when the source has released.
	_, err = b.prepare(ctx, m.attachment(), until10m())
	b.must(err)
	got, err = a.release(ctx, until10m())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
	a.unchanged(ctx, empty[0].With("ledger attachment/"+moverID+".json"))
	got, err = a.rollback(ctx)
	stands(t, got, err, nodev1.Phase_PHASE_READY, "")
	a.unchanged(ctx, attached)
	m.more(ctx)

	// A migration that fails: at the destination QEMU cannot begin.
	got, err = a.release(ctx, until10m())
	stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
	if _, err := a.guest.MigrateBroken(b.libvirt); err == nil {
		t.Fatal("the instance migrated")
	}
	b.unchanged(ctx, prepared)
	got, err = a.rollback(ctx)
	stands(t, got, err, nodev1.Phase_PHASE_READY, "")
	a.unchanged(ctx, attached)
	m.more(ctx)
	t.Logf("given up after the release, the instance had no share for %s", m.gap())

	// There and back again.
	for range 2 {
		m.must(os.Remove(filepath.Join(m.dir, "log")))
		m.more(ctx)
		_, err := m.there().prepare(ctx, m.attachment(), until10m())
		m.must(err)
		begin := time.Now()
		got, err := m.here().release(ctx, until10m())
		released := time.Now()
		stands(t, got, err, nodev1.Phase_PHASE_PENDING, "released")
		if _, err := m.there().finishMove(within(ctx, t, 300*time.Millisecond)); codeOf(err) != codes.DeadlineExceeded {
			t.Errorf("finish before the instance has come: %v", err)
		}
		m.migrate()
		migrated := time.Now()
		got, err = m.here().finishMove(ctx)
		stands(t, got, err, nodev1.Phase_PHASE_READY, "")
		finished := time.Now()
		if got.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED || got.GetMove() != nil {
			t.Errorf("after the move it is %v", got)
		}
		m.there().detach(ctx, moverID)
		m.there().unchanged(ctx, empty[1-m.at])
		m.more(ctx)
		t.Logf("release %s, migration %s, finish %s; the instance had no share for %s", released.Sub(begin), migrated.Sub(released), finished.Sub(migrated), m.gap())
	}
	m.here().in(ctx, "touch /tmp/stop")
	a.detach(ctx, moverID)
	a.finish(ctx)
	b.finish(ctx)
}

func (m *migration) must(err error) {
	m.t.Helper()
	m.here().must(err)
}

func within(ctx context.Context, t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(ctx, d)
	t.Cleanup(cancel)
	return ctx
}

func codeOf(err error) codes.Code {
	got, _, _ := refusalOf(err)
	return got.code
}

// TestMoveWithoutCaller: nobody finishes the move, and agents are away when its
// time is over.
func TestMoveWithoutCaller(t *testing.T) {
	ctx := limited(t, 3*time.Minute)
	m := migrating(ctx, t, lab.AgentOptions{})
	a, b := m.hosts[0], m.hosts[1]
	soon := func() *timestamppb.Timestamp { return timestamppb.New(time.Now().Add(2 * time.Second)) }
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("agents away %v", away), func(t *testing.T) {
			m.in(t)
			a.attach(ctx, m.attachment())
			attached := a.state(ctx)

			// The instance stays: each host is soon as it was.
			expiry := soon()
			_, err := b.prepare(ctx, m.attachment(), expiry)
			b.must(err)
			_, err = a.release(ctx, expiry)
			a.must(err)
			absent := func(n *node) {
				if !away {
					return
				}
				n.kill()
				until(ctx, t, "time", func() (bool, error) { return time.Now().After(expiry.AsTime()), nil })
				n.start(ctx)
			}
			absent(a)
			absent(b)
			a.settles(ctx, attached)
			b.settles(ctx, b.before)

			// It moves: each host is soon as it should be.
			_, err = b.prepare(ctx, m.attachment(), until10m())
			b.must(err)
			expiry = soon()
			_, err = a.release(ctx, expiry)
			a.must(err)
			if away {
				b.kill()
			}
			m.migrate()
			if away {
				b.start(ctx)
			}
			absent(a)
			a.settles(ctx, a.before)
			until(ctx, t, "it has the share", func() (bool, error) {
				out, err := b.guest.Shell(ctx, "cat /mnt/docs/hello")
				return strings.TrimSpace(out) == "from docs", err
			})

			b.detach(ctx, moverID)
			b.settles(ctx, b.before)
			m.migrate()
		})
	}
	m.in(t)
	a.finish(ctx)
	b.finish(ctx)
}
