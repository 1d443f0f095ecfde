package virtiofs

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"libvirt.org/go/libvirt"
)

// A hypervisor is what this package needs of libvirt. Every call blocks until
// libvirtd answers or the connection is given up, may be made by several
// goroutines, and fails with a libvirt.Error.
type hypervisor interface {
	// domain returns the XML of a domain, live where it runs, by UUID or name,
	// and where it stands.
	domain(ref string) (string, passage, error)
	// definition returns the XML that the next start of a domain takes; empty
	// where it has none.
	definition(uuid string) (string, error)
	// running returns the live XML of every active domain.
	running() ([]string, error)
	// versions are libvirt's and QEMU's, as libvirt counts.
	versions() (Hypervisor, error)
	// capabilities returns the XML of what the host can.
	capabilities() (string, error)
	// attach plugs a device into a running domain.
	attach(uuid, xml string) error
	// detach asks a running domain's guest to let go of a device, and does not
	// wait for it. Success says that QEMU passed the question on.
	detach(uuid, alias string) error
	// define puts a device into a domain's definition, undefine takes it out.
	define(uuid, xml string) error
	undefine(uuid, alias string) error
	// agent has the guest agent run one command, for at most so many seconds.
	agent(uuid, command string, seconds int) (string, error)
	// monitor has a running domain's QEMU execute one command of QMP, and returns
	// its answer, also where that is an error. It waits until libvirt changes
	// nothing in the domain.
	monitor(uuid, command string) (string, error)
}

// eventLoop is libvirt's, of which a process has one: it must be registered
// before the first connection and has no end.
var eventLoop = sync.OnceValue(func() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return fmt.Errorf("register libvirt's event loop: %w", err)
	}
	go func() {
		for {
			// It fails only if no implementation is registered.
			_ = libvirt.EventRunDefaultImpl()
		}
	}()
	return nil
})

// Keep-alive messages: a libvirtd that has answered none for
// (keepaliveCount+1) * keepaliveSeconds is given up, and with it every call
// that waits for it.
const (
	keepaliveSeconds = 5
	keepaliveCount   = 3
)

// A connection is a libvirt connection.
type connection struct {
	c         *libvirt.Connect
	callbacks []int

	mu      sync.Mutex
	domains map[string]*libvirt.Domain // by UUID, as far as they were asked for
}

// dial connects to libvirt, and reports events to h until the connection is
// closed. lost is called when libvirt gives the connection up.
func dial(uri string, notify func(Event), lost func()) (_ *link, err error) {
	if err := eventLoop(); err != nil {
		return nil, err
	}
	c, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", uri, err)
	}
	n := &connection{c: c, domains: map[string]*libvirt.Domain{}}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if err := c.RegisterCloseCallback(func(*libvirt.Connect, libvirt.ConnectCloseReason) { lost() }); err != nil {
		return nil, fmt.Errorf("watch the connection: %w", err)
	}
	// The in-process drivers have nobody to keep alive.
	if err := c.SetKeepAlive(keepaliveSeconds, keepaliveCount); err != nil && !errors.Is(err, libvirt.ERR_NO_SUPPORT) {
		return nil, fmt.Errorf("keep the connection alive: %w", err)
	}
	if err := n.subscribe(notify); err != nil {
		return nil, fmt.Errorf("watch domains: %w", err)
	}
	return &link{hypervisor: n, alive: n.alive, close: n.close}, nil
}

// subscribe registers every callback. They run in the event loop, where a call
// to libvirt would wait for itself; reading the UUID is no call.
func (n *connection) subscribe(notify func(Event)) error {
	say := func(d *libvirt.Domain, rebooted bool) {
		uuid, err := d.GetUUIDString()
		if err != nil {
			uuid = "" // look at everything
		}
		notify(Event{Instance: uuid, Rebooted: rebooted})
	}
	add := func(id int, err error) error {
		if err == nil {
			n.callbacks = append(n.callbacks, id)
		}
		return err
	}
	return errors.Join(
		add(n.c.DomainEventDeviceAddedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceAdded) { say(d, false) })),
		add(n.c.DomainEventDeviceRemovedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceRemoved) { say(d, false) })),
		add(n.c.DomainEventDeviceRemovalFailedRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventDeviceRemovalFailed) { say(d, false) })),
		add(n.c.DomainEventLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, e *libvirt.DomainEventLifecycle) { say(d, booted(e)) })),
		add(n.c.DomainEventRebootRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain) { say(d, true) })),
		add(n.c.DomainEventAgentLifecycleRegister(nil, func(_ *libvirt.Connect, d *libvirt.Domain, _ *libvirt.DomainEventAgentLifecycle) { say(d, false) })),
	)
}

// booted tells a guest that begins from one that goes on elsewhere.
func booted(e *libvirt.DomainEventLifecycle) bool {
	return e.Event == libvirt.DOMAIN_EVENT_STARTED &&
		libvirt.DomainEventStartedDetailType(e.Detail) == libvirt.DOMAIN_EVENT_STARTED_BOOTED
}

// alive does not ask libvirtd.
func (n *connection) alive() bool {
	ok, err := n.c.IsAlive()
	return ok && err == nil
}

// close ends the connection. The callbacks and the domains hold references to
// it, so they go first. Errors are of no use: the connection may be dead already.
func (n *connection) close() {
	for uuid := range n.domains {
		n.forget(uuid)
	}
	for _, id := range n.callbacks {
		_ = n.c.DomainEventDeregister(id)
	}
	_ = n.c.UnregisterCloseCallback()
	_, _ = n.c.Close()
}

// with looks a domain up for f. A handle is kept for the next time, since each
// question would else be two: libvirtd goes by the UUID in it whatever else has
// changed, and says so when there is no such domain any more.
func (n *connection) with(uuid string, f func(*libvirt.Domain) error) error {
	d, err := n.lookup(uuid)
	if err != nil {
		return err
	}
	defer func() { _ = d.Free() }()
	err = f(d)
	if errors.Is(err, libvirt.ERR_NO_DOMAIN) {
		n.forget(uuid)
	}
	return err
}

// lookup returns a reference of the caller's own.
func (n *connection) lookup(uuid string) (*libvirt.Domain, error) {
	n.mu.Lock()
	if d := n.domains[uuid]; d != nil {
		defer n.mu.Unlock()
		return d, d.Ref()
	}
	n.mu.Unlock() // libvirtd may take its time
	d, err := n.c.LookupDomainByUUIDString(uuid)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.domains[uuid] == nil && d.Ref() == nil {
		n.domains[uuid] = d
	}
	return d, nil
}

func (n *connection) forget(uuid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.domains[uuid]; d != nil {
		_ = d.Free()
	}
	delete(n.domains, uuid)
}

func (n *connection) domain(ref string) (doc string, where passage, err error) {
	look := func(d *libvirt.Domain) error {
		if doc, err = d.GetXMLDesc(0); err != nil {
			return err
		}
		// After the XML: what has arrived by then is in it.
		state, reason, err := d.GetState()
		where = passageOf(state, reason)
		return err
	}
	if err = n.with(ref, look); err == nil || doc != "" {
		return doc, where, err
	}
	// No UUID, or nobody's: then it can only be a name.
	d, again := n.c.LookupDomainByName(ref)
	if again != nil {
		return "", stays, again
	}
	defer func() { _ = d.Free() }()
	return doc, where, look(d)
}

// A passage is where a domain stands in a migration.
type passage int

const (
	stays     passage = iota
	migrating         // paused for it, on either host
	migrated          // off, since it went away
)

func passageOf(state libvirt.DomainState, reason int) passage {
	switch {
	case state == libvirt.DOMAIN_PAUSED && libvirt.DomainPausedReason(reason) == libvirt.DOMAIN_PAUSED_MIGRATION:
		return migrating
	case state == libvirt.DOMAIN_SHUTOFF && libvirt.DomainShutoffReason(reason) == libvirt.DOMAIN_SHUTOFF_MIGRATED:
		return migrated
	}
	return stays
}

func (n *connection) definition(uuid string) (doc string, err error) {
	err = n.with(uuid, func(d *libvirt.Domain) error {
		persistent, err := d.IsPersistent()
		if err != nil || !persistent {
			return err
		}
		doc, err = d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
		return err
	})
	return doc, err
}

func (n *connection) running() ([]string, error) {
	domains, err := n.c.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_ACTIVE)
	if err != nil {
		return nil, err
	}
	var docs []string
	var errs []error
	for i := range domains {
		doc, err := domains[i].GetXMLDesc(0)
		if err := domains[i].Free(); err != nil {
			errs = append(errs, err)
		}
		switch {
		case err == nil:
			docs = append(docs, doc)
		case !errors.Is(err, libvirt.ERR_NO_DOMAIN): // it ended meanwhile
			errs = append(errs, err)
		}
	}
	return docs, errors.Join(errs...)
}

func (n *connection) versions() (v Hypervisor, err error) {
	if v.Libvirt, err = n.c.GetLibVersion(); err != nil {
		return v, err
	}
	v.QEMU, err = n.c.GetVersion()
	return v, err
}

func (n *connection) capabilities() (string, error) { return n.c.GetCapabilities() }

func (n *connection) attach(uuid, xml string) error {
	return n.with(uuid, func(d *libvirt.Domain) error {
		return d.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	})
}

// detach is by alias: by XML libvirt looks at the tag alone, and
// virDomainDetachDeviceFlags waits 5 s for the guest and then reports success
// whatever it did.
func (n *connection) detach(uuid, alias string) error {
	return n.with(uuid, func(d *libvirt.Domain) error {
		return d.DetachDeviceAlias(alias, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	})
}

func (n *connection) define(uuid, xml string) error {
	return n.with(uuid, func(d *libvirt.Domain) error {
		return d.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
	})
}

func (n *connection) undefine(uuid, alias string) error {
	return n.with(uuid, func(d *libvirt.Domain) error {
		return d.DetachDeviceAlias(alias, libvirt.DOMAIN_DEVICE_MODIFY_CONFIG)
	})
}

func (n *connection) agent(uuid, command string, seconds int) (answer string, err error) {
	err = n.with(uuid, func(d *libvirt.Domain) error {
		answer, err = d.QemuAgentCommand(command, libvirt.DomainQemuAgentCommandTimeout(seconds), 0)
		return err
	})
	return answer, err
}

func (n *connection) monitor(uuid, command string) (answer string, err error) {
	err = n.with(uuid, func(d *libvirt.Domain) error {
		answer, err = d.QemuMonitorCommand(command, libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
		return err
	})
	return answer, err
}

// explain gives a libvirt error its meaning here, by its code. For four
// refusals of an attach libvirt has no code of their own, and only its words
// (9.0: qemu_validate.c, domain_addr.c, and QEMU's chardev/char-socket.c) tell
// them apart: this is the one place that reads them. It has no translations
// where the daemon runs in the C locale, as it does under systemd; in any other
// the error stays unexplained, not wrong.
func explain(err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) {
		return err
	}
	means := func(cause error) error { return fmt.Errorf("%w: %w", cause, err) }
	switch e.Code {
	case libvirt.ERR_NO_DOMAIN:
		return means(ErrNoInstance)
	case libvirt.ERR_AGENT_UNRESPONSIVE, libvirt.ERR_AGENT_UNSYNCED, libvirt.ERR_AGENT_COMMAND_TIMEOUT:
		return means(ErrGuestAgent)
	}
	switch {
	case strings.Contains(e.Message, "requires shared memory"),
		strings.Contains(e.Message, "requires one or more NUMA nodes"):
		return means(ErrNoSharedMemory)
	case strings.Contains(e.Message, "filesystem target") && strings.Contains(e.Message, "specified twice"):
		return means(ErrTagTaken) // not before libvirt 11, see domain_validate.c
	case strings.Contains(e.Message, "No more available PCI slots"):
		return means(ErrNoPort)
	case strings.Contains(e.Message, "Failed to add chardev") && strings.Contains(e.Message, "Failed to connect to"):
		return means(ErrNoListener)
	}
	return err
}
