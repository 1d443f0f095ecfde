package virtiofs

import (
	"cmp"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
)

// A stray is a device of ours that QEMU has and libvirt does not know of. A
// libvirtd that is killed after QEMU took a device, and before it has written
// down that it did, leaves one, and no libvirtd after it ever learns of it
// (qemu_process.c asks QEMU only for devices that its XML has). From then on
// libvirt cannot attach a device with that alias, nor any in the port, which it
// believes free.
//
// QEMU has two things for each device, and a stray may be the first alone: the
// chardev, which is the connection to virtiofsd, and the device in the guest.
type stray struct {
	alias   string // as libvirt and QEMU write it
	device  bool
	chardev bool
}

const (
	// chardevPrefix and a device's alias are the name of its chardev
	// (qemu_alias.c, qemuDomainGetVhostUserChrAlias).
	chardevPrefix = "chr-vu-"
	// peripherals is where QEMU has the devices that were given an id, and
	// virtiofsType begins the type of ours there: -pci or -ccw follows.
	peripherals  = "/machine/peripheral"
	virtiofsType = "child<vhost-user-fs-"
)

// strayLook is how often QEMU is asked whether a stray is gone, since libvirt
// passes no event on for a device that it does not know.
const strayLook = 100 * time.Millisecond

// DetachStray takes the device out of QEMU where libvirt does not know of it, and
// returns when it is gone: ErrGuestBusy when the guest does not let go before ctx
// ends, ErrNoMonitor, ErrUnavailable, and ErrAttached when libvirt does know of
// it. No such device, or domain, or one that is off, is success.
//
// To ask QEMU taints the domain, in libvirt's words ("custom-monitor"): call it
// only where there is something to be found.
func (h *Host) DetachStray(ctx context.Context, d Device) error {
	if !ours(d.Alias) {
		return fmt.Errorf("alias %q is not ours", d.Alias)
	}
	if _, err := h.takeStrays(ctx, d.Instance, d.Alias); err != nil {
		return fmt.Errorf("take %s out of instance %s behind libvirt: %w", d.Alias, d.Instance, err)
	}
	return nil
}

// takeStrays takes out an instance's stray with an alias, or all where that is
// empty, and says whether there was one.
//
// The instance's lock is held for each look and what follows from it, and not
// while the guest takes its time: others may attach meanwhile, and each look
// finds anew what libvirt does not know.
func (h *Host) takeStrays(ctx context.Context, instance, alias string) (found bool, err error) {
	t := time.NewTicker(strayLook)
	defer t.Stop()
	seen := map[string]bool{}
	var asked time.Time
	for {
		ask := time.Since(asked) >= nag
		if ask {
			asked = time.Now()
		}
		is, err := h.sweep(ctx, instance, sweep{alias: alias, ask: ask})
		if err != nil && (ctx.Err() == nil || len(seen) == 0) {
			return false, err
		}
		for _, s := range is.strays {
			if !seen[s.alias] {
				h.o.Logger.WarnContext(ctx, "QEMU has a device that libvirt does not know of, and it is taken out",
					"instance", instance, "device", s.alias, "in_guest", s.device)
			}
			seen[s.alias] = true
		}
		if err == nil && is.gone() == len(is.strays) {
			return len(seen) > 0, nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return true, errors.Join(fmt.Errorf("%w: %w", ErrGuestBusy, context.Cause(ctx)), is.refused)
		}
	}
}

// A sweep is one look at an instance's strays.
type sweep struct {
	alias string // of the one; empty: all
	ask   bool   // the guest, to let go

	strays  []stray // as they are after it
	refused error   // what QEMU said to the last request
}

// gone counts the strays of which QEMU has nothing any more.
func (s sweep) gone() (n int) {
	for _, is := range s.strays {
		if !is.device && !is.chardev {
			n++
		}
	}
	return n
}

func (h *Host) sweep(ctx context.Context, instance string, s sweep) (sweep, error) {
	unlock, err := h.lock(ctx, instance)
	if err != nil {
		return sweep{}, err
	}
	return callThen(ctx, h, h.calls, func(v hypervisor) (sweep, error) {
		err := s.do(v, instance)
		if n := s.gone(); n > 0 {
			h.o.Strays(n) // here, since ctx may have ended
		}
		if errors.Is(err, libvirt.ERR_NO_DOMAIN) || errors.Is(err, libvirt.ERR_OPERATION_INVALID) {
			return sweep{}, nil // it is off, or gone, and its QEMU with it
		}
		return s, err
	}, unlock)
}

func (s *sweep) do(v hypervisor, instance string) error {
	if err := s.find(v, instance); err != nil {
		return err
	}
	for i := range s.strays {
		is := &s.strays[i]
		var err error
		switch {
		case is.device && s.ask:
			err = qemu(v, instance, nil, "device_del", map[string]string{"id": is.alias})
		case !is.device:
			// QEMU refuses it for some instants after the device is gone.
			if err = qemu(v, instance, nil, "chardev-remove", map[string]string{"id": chardevPrefix + is.alias}); err == nil {
				is.chardev = false
			}
		}
		switch {
		case err == nil:
		case errors.As(err, new(qemuError)):
			s.refused = err
		default:
			return err
		}
	}
	return nil
}

// find lists what QEMU has and libvirt does not.
//
// QEMU first, then libvirt: libvirt passes a question on to QEMU when no change
// of its own is under way, so that what it is just plugging in is in QEMU's
// answer only if it is in the XML by then.
func (s *sweep) find(v hypervisor, instance string) error {
	var devices []struct{ Name, Type string }
	if err := qemu(v, instance, &devices, "qom-list", map[string]string{"path": peripherals}); err != nil {
		return err
	}
	var chardevs []struct{ Label string }
	if err := qemu(v, instance, &chardevs, "query-chardev", nil); err != nil {
		return err
	}
	doc, _, err := v.domain(instance)
	if err != nil {
		return err
	}
	known, err := aliases(doc)
	if err != nil {
		return err
	}
	if s.alias != "" && known[libvirtAlias(s.alias)] {
		return ErrAttached
	}
	strays := map[string]stray{}
	note := func(alias string, change func(*stray)) {
		name := parseAlias(alias)
		if known[alias] || !ours(name) || s.alias != "" && name != s.alias {
			return
		}
		is := strays[alias]
		is.alias = alias
		change(&is)
		strays[alias] = is
	}
	for _, d := range devices {
		if strings.HasPrefix(d.Type, virtiofsType) {
			note(d.Name, func(is *stray) { is.device = true })
		}
	}
	for _, c := range chardevs {
		if alias, ok := strings.CutPrefix(c.Label, chardevPrefix); ok {
			note(alias, func(is *stray) { is.chardev = true })
		}
	}
	s.strays = slices.SortedFunc(maps.Values(strays), func(a, b stray) int { return cmp.Compare(a.alias, b.alias) })
	return nil
}

// aliases of all devices of a domain, whatever kind they are.
func aliases(doc string) (map[string]bool, error) {
	var d struct {
		Devices struct {
			Any []struct {
				Alias struct {
					Name string `xml:"name,attr"`
				} `xml:"alias"`
			} `xml:",any"`
		} `xml:"devices"`
	}
	if err := xml.Unmarshal([]byte(doc), &d); err != nil {
		return nil, fmt.Errorf("parse aliases of devices: %w", err)
	}
	known := map[string]bool{}
	for _, dev := range d.Devices.Any {
		known[dev.Alias.Name] = true
	}
	return known, nil
}

// A qemuError is what QEMU answered instead of doing what it was told.
type qemuError struct {
	Class string
	Desc  string
}

func (e qemuError) Error() string { return "QEMU: " + quote(e.Desc) }

// qemu has a domain's QEMU execute one command of QMP (QEMU's
// docs/interop/qemu-qmp-ref): a qemuError where it refuses, ErrNoMonitor where
// libvirt does. into may be nil.
func qemu(v hypervisor, instance string, into any, verb string, arguments map[string]string) error {
	command, err := json.Marshal(struct {
		Execute   string            `json:"execute"`
		Arguments map[string]string `json:"arguments,omitempty"`
	}{verb, arguments})
	if err != nil {
		return err
	}
	text, err := v.monitor(instance, string(command))
	for _, refusal := range []error{libvirt.ERR_NO_SUPPORT, libvirt.ERR_ACCESS_DENIED, libvirt.ERR_AUTH_UNAVAILABLE, libvirt.ERR_OPERATION_DENIED, libvirt.ERR_OPERATION_UNSUPPORTED} {
		if errors.Is(err, refusal) {
			return fmt.Errorf("%s: %w: %w", verb, ErrNoMonitor, err)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	var answer struct {
		Return json.RawMessage
		Error  *qemuError
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return fmt.Errorf("%s: read QEMU's answer: %w", verb, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %w", verb, *answer.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Return, into); err != nil {
		return fmt.Errorf("%s: read QEMU's answer: %w", verb, err)
	}
	return nil
}

// refusedByQEMU says whether an attach failed since QEMU did not take the chardev
// or the device. QEMU's commands are named in libvirt's words in any language.
func refusedByQEMU(err error) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == libvirt.ERR_INTERNAL_ERROR &&
		(strings.Contains(e.Message, "'chardev-add'") || strings.Contains(e.Message, "'device_add'"))
}
