package standing

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/answers"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/move"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/agent/reconcile"
	"github.com/causeway-project/causeway/agent/retry"
)

var (
	mount, daemon, device, guestMount, definition = reconcile.Mount.Of("m"), reconcile.Daemon.Of("x"), reconcile.Device.Of("x"), reconcile.GuestMount.Of("x"), reconcile.Definition.Of("x")
	view, export                                  = reconcile.View.Of("x"), reconcile.Export.Of("x")
)

func failed(r fault.Reason) *retry.Failure {
	return &retry.Failure{Err: &fault.Error{Reason: r}, Attempts: 3}
}

type failures = map[reconcile.Key]*retry.Failure

// attachment is one of which all is as wanted.
func attachment() Facts {
	r := &intent.Record{Generation: 2, Attachment: &intent.Attachment{Instance: "vm1", Mount: "m", MountAt: "/mnt"}}
	return whole(Facts{ID: "x", Record: r, Instance: answers.Answer{Instance: parts.Instance{Running: true}}})
}

func whole(f Facts) Facts {
	f.Now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	f.Observed = f.Record.Generation
	f.World = reconcile.World{Want: map[reconcile.Key]reconcile.Want{}, Is: map[reconcile.Key]reconcile.Version{}, Unknown: map[reconcile.Key]bool{}, Outside: map[reconcile.Key]bool{}}
	for _, k := range f.Record.Keys(f.ID) {
		v := f.Record.Version(k, f.Now)
		f.World.Want[k] = reconcile.Want{Version: v, Needs: f.Record.Needs(k, f.ID)}
		f.World.Is[k] = v
	}
	f.Gateway = func(string) *fault.Error { return &fault.Error{Reason: fault.GatewayDown} }
	return f
}

// unplugged is an attachment whose device is not there.
func unplugged(f *Facts) {
	delete(f.World.Is, device)
	delete(f.World.Is, guestMount)
}

// removed is an attachment that is to go.
func removed(f *Facts) {
	f.Record.Removing = true
	clear(f.World.Want)
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Facts)
		phase  model.Phase
		reason fault.Reason
		seen   int64        // the generation that the host agrees with
		fails  fault.Reason // of what a caller who waits is told
	}{
		{"all is there", func(*Facts) {}, model.Ready, "", 2, ""},
		{"a step is due", unplugged, model.Working, "", 1, ""},
		{"a step failed", func(f *Facts) {
			unplugged(f)
			f.Fails = failures{device: failed(fault.StepFailed)}
		}, model.Failed, fault.StepFailed, 1, fault.StepFailed},
		{"what comes first failed", func(f *Facts) {
			f.World.Is = nil
			f.Fails = failures{mount: failed(fault.BackendAway)}
		}, model.Failed, fault.BackendAway, 1, fault.BackendAway},
		{"a thing cannot be looked at, at first", func(f *Facts) { f.Unknown = failures{device: failed(fault.LibvirtUnavailable)} },
			model.Pending, fault.LibvirtUnavailable, 1, ""},
		{"a thing cannot be looked at, later", func(f *Facts) {
			f.Unknown, f.WasReady = failures{device: failed(fault.LibvirtUnavailable)}, true
		}, model.Degraded, fault.LibvirtUnavailable, 1, ""},
		{"the guest does not mount it", func(f *Facts) {
			delete(f.World.Is, guestMount)
			f.Fails = failures{guestMount: failed(fault.GuestAgentAbsent)}
		}, model.Degraded, fault.GuestAgentAbsent, 2, fault.GuestAgentAbsent},
		{"it is not in the definition", func(f *Facts) {
			delete(f.World.Is, definition)
			f.Fails = failures{definition: failed(fault.LibvirtUnavailable)}
		}, model.Degraded, fault.LibvirtUnavailable, 2, fault.LibvirtUnavailable},
		{"the dead device does not come out", func(f *Facts) {
			delete(f.World.Is, daemon)
			f.Fails = failures{device: failed(fault.NeedsReset)}
		}, model.Degraded, fault.NeedsReset, 1, fault.NeedsReset},
		{"it is near a limit", func(f *Facts) { f.Warning = failed(fault.FilesNearLimit) }, model.Degraded, fault.FilesNearLimit, 2, ""},
		{"the share is gone", func(f *Facts) { f.Gone = map[reconcile.Key]bool{mount: true} }, model.Degraded, fault.ShareGone, 2, ""},
		{"the share is gone, and a step fails", func(f *Facts) {
			unplugged(f)
			f.Fails, f.Gone = failures{device: failed(fault.StepFailed)}, map[reconcile.Key]bool{mount: true}
		}, model.Degraded, fault.ShareGone, 1, fault.ShareGone},

		{"the instance is off", func(f *Facts) { f.Instance.Instance.Running = false }, model.Pending, fault.InstanceOff, 1, fault.InstanceOff},
		{"the instance is not there", func(f *Facts) { f.Instance.Err = &fault.Error{Reason: fault.InstanceNotFound} }, model.Pending, fault.InstanceNotFound, 1, ""},
		{"libvirt is away", func(f *Facts) { f.Instance.Err = &fault.Error{Reason: fault.LibvirtUnavailable} }, model.Ready, "", 2, ""},
		{"the instance is about to start", func(f *Facts) { f.Starting = true }, model.Pending, fault.InstanceStarting, 1, ""},

		{"awaited", func(f *Facts) {
			f.Record.Attachment.Move = &move.Move{Side: move.Destination, ExpiresAt: f.Now.Add(time.Hour)}
			f.Instance.Err = &fault.Error{Reason: fault.InstanceNotFound}
		}, model.Pending, fault.InstanceAwaited, 2, ""},
		{"being released", func(f *Facts) {
			f.Record.Attachment.Move = &move.Move{Side: move.Source, ExpiresAt: f.Now.Add(time.Hour)}
			clear(f.World.Want)
		}, model.Working, "", 1, ""},
		{"the guest does not release it", func(f *Facts) {
			f.Record.Attachment.Move = &move.Move{Side: move.Source, ExpiresAt: f.Now.Add(time.Hour)}
			clear(f.World.Want)
			delete(f.World.Is, definition)
			f.Fails = failures{guestMount: failed(fault.GuestBusy)}
		}, model.Degraded, fault.GuestBusy, 1, fault.GuestBusy},
		{"released, with a mount that another uses", func(f *Facts) {
			f.Record.Attachment.Move = &move.Move{Side: move.Source, ExpiresAt: f.Now.Add(time.Hour)}
			for _, k := range []reconcile.Key{daemon, device, guestMount, definition} {
				delete(f.World.Want, k)
				delete(f.World.Is, k)
			}
		}, model.Pending, fault.Released, 2, ""},

		{"going", removed, model.Removing, "", 1, ""},
		{"going, and the guest is busy", func(f *Facts) {
			removed(f)
			f.Fails = failures{guestMount: failed(fault.GuestBusy)}
		}, model.Degraded, fault.GuestBusy, 1, fault.GuestBusy},
		{"going with force, and the guest is busy", func(f *Facts) {
			removed(f)
			f.Record.RemovalForced = true
			f.Fails = failures{guestMount: failed(fault.GuestBusy)}
		}, model.Degraded, fault.GuestBusy, 1, ""},
		{"gone with force, and the guest keeps the device", func(f *Facts) {
			removed(f)
			f.Record.RemovalForced, f.Cut = true, true
			delete(f.World.Is, daemon)
			f.Fails = failures{device: failed(fault.GuestBusy)}
		}, model.Degraded, fault.NeedsReset, 1, fault.NeedsReset},
		{"gone, and the record stays", func(f *Facts) {
			removed(f)
			clear(f.World.Is)
			f.Kept = failed(fault.LedgerFailed)
		}, model.Removing, fault.LedgerFailed, 1, fault.LedgerFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := attachment()
			c.change(&f)
			f.Plan = reconcile.NextPlan(f.World, held(f))
			check(t, f, model.Status{Phase: c.phase, Reason: c.reason, Generation: 2, ObservedGeneration: c.seen}, c.fails)
		})
	}
}

// held are the removals that failed.
func held(f Facts) map[reconcile.Key]bool {
	held := map[reconcile.Key]bool{}
	for k := range f.Fails {
		if _, there := f.World.Is[k]; there {
			held[k] = true
		}
	}
	return held
}

func check(t *testing.T, f Facts, want model.Status, fails fault.Reason) {
	t.Helper()
	s, failure := Of(f)
	s.Message, s.Attempts = "", 0
	if d := cmp.Diff(want, s); d != "" {
		t.Error(d)
	}
	if failure == nil && fails != "" || failure != nil && failure.Reason != fails {
		t.Errorf("who waits is told %v, want %q", failure, fails)
	}
}

// TestExport is one whose gateway decides.
func TestExport(t *testing.T) {
	gateway := reconcile.Gateway.Of("blue")
	for _, c := range []struct {
		name   string
		change func(*Facts)
		phase  model.Phase
		reason fault.Reason
		seen   int64
	}{
		{"served", func(f *Facts) { f.World.Outside[gateway] = true }, model.Ready, "", 1},
		{"its gateway is down", func(f *Facts) { delete(f.World.Is, export) }, model.Pending, fault.GatewayDown, 0},
		{"its view is to be made", func(f *Facts) {
			f.World.Outside[gateway] = true
			delete(f.World.Is, view)
			delete(f.World.Is, export)
		}, model.Working, "", 0},
		{"its rules are refused", func(f *Facts) {
			f.World.Outside[gateway] = true
			f.Warning = failed(fault.RuleRefused)
		}, model.Degraded, fault.RuleRefused, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := whole(Facts{ID: "x", Record: &intent.Record{Generation: 1, Export: &intent.Export{Network: "blue", Mount: "m"}}})
			c.change(&f)
			f.Plan = reconcile.NextPlan(f.World, nil)
			check(t, f, model.Status{Phase: c.phase, Reason: c.reason, Generation: 1, ObservedGeneration: c.seen}, "")
		})
	}
}
