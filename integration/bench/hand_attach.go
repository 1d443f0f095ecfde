package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// A handDomain attaches virtiofs devices with libvirt's own calls.
type handDomain struct {
	conn    *libvirt.Connect
	domain  *libvirt.Domain
	added   chan string
	removed chan string
}

// listen runs libvirt's event loop, which is one for the process and has no
// end. It must be registered before the first connection.
func listen() error {
	if err := libvirt.EventRegisterDefaultImpl(); err != nil {
		return err
	}
	go func() {
		for libvirt.EventRunDefaultImpl() == nil {
		}
	}()
	return nil
}

func openDomain(uri, name string) (*handDomain, error) {
	conn, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, err
	}
	h := &handDomain{conn: conn, added: make(chan string, 8), removed: make(chan string, 8)}
	if h.domain, err = conn.LookupDomainByName(name); err != nil {
		return nil, errors.Join(err, h.close())
	}
	// Neither may block: they run in the one event loop.
	put := func(c chan string, alias string) {
		select {
		case c <- alias:
		default:
		}
	}
	_, err = conn.DomainEventDeviceAddedRegister(h.domain,
		func(_ *libvirt.Connect, _ *libvirt.Domain, e *libvirt.DomainEventDeviceAdded) {
			put(h.added, e.DevAlias)
		})
	if err == nil {
		_, err = conn.DomainEventDeviceRemovedRegister(h.domain,
			func(_ *libvirt.Connect, _ *libvirt.Domain, e *libvirt.DomainEventDeviceRemoved) {
				put(h.removed, e.DevAlias)
			})
	}
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *handDomain) close() error {
	_, err := h.conn.Close()
	return err
}

// A handDevice is one virtiofsd and its device.
type handDevice struct {
	alias  string
	socket string
	daemon *exec.Cmd
}

// virtiofsd finds the daemon, in its Rust or its C flavour, and gives it the
// options that the agent gives it.
func virtiofsd(socket, source string) (*exec.Cmd, error) {
	for _, path := range []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd"} {
		if _, err := os.Stat(path); err == nil {
			return exec.Command(path, "--socket-path="+socket, "--shared-dir="+source,
				"--sandbox=namespace", "--announce-submounts", "--log-level=warn", "--rlimit-nofile=0"), nil
		}
	}
	const path = "/usr/lib/qemu/virtiofsd"
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	return exec.Command(path, "-f", "--socket-path="+socket, "-o", "source="+source,
		"-o", "sandbox=namespace", "-o", "announce_submounts", "-o", "log_level=warn", "--rlimit-nofile=0"), nil
}

// A handShare is a directory to attach by hand.
type handShare struct {
	dir    string // for its socket
	source string // what is shared
	tag    string
}

// attach is what a person does: start virtiofsd, wait for its socket, attach,
// wait for the device-added event.
func (h *handDomain) attach(ctx context.Context, s handShare) (*handDevice, error) {
	d := &handDevice{alias: "ua-bench-" + s.tag, socket: filepath.Join(s.dir, s.tag+".sock")}
	var err error
	if d.daemon, err = virtiofsd(d.socket, s.source); err != nil {
		return nil, err
	}
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.daemon.Start(); err != nil {
		return nil, err
	}
	err = awaitSocket(ctx, d.socket)
	if err == nil {
		// QEMU is not root.
		err = errors.Join(os.Chmod(s.dir, 0o711), os.Chmod(d.socket, 0o777))
	}
	if err != nil {
		return nil, errors.Join(err, d.end())
	}
	device := libvirtxml.DomainFilesystem{
		AccessMode: "passthrough",
		Driver:     &libvirtxml.DomainFilesystemDriver{Type: "virtiofs", Queue: 1024},
		Source:     &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Socket: d.socket}},
		Target:     &libvirtxml.DomainFilesystemTarget{Dir: s.tag},
		Alias:      &libvirtxml.DomainAlias{Name: d.alias},
	}
	xml, err := device.Marshal()
	if err == nil {
		err = h.domain.AttachDeviceFlags(xml, libvirt.DOMAIN_DEVICE_MODIFY_LIVE)
	}
	if err == nil {
		err = await(ctx, h.added, d.alias)
	}
	if err != nil {
		return nil, errors.Join(err, d.end())
	}
	return d, nil
}

// detach unplugs the device, waits until the guest has let it go, and for the
// daemon, which ends by itself.
func (h *handDomain) detach(ctx context.Context, d *handDevice) error {
	if err := h.domain.DetachDeviceAlias(d.alias, libvirt.DOMAIN_DEVICE_MODIFY_LIVE); err != nil {
		return errors.Join(err, d.end())
	}
	if err := await(ctx, h.removed, d.alias); err != nil {
		return errors.Join(err, d.end())
	}
	// The C daemon leaves its socket there.
	return errors.Join(d.daemon.Wait(), os.RemoveAll(d.socket))
}

// mount mounts a tag, trying again until the guest sees the device.
func (h *handDomain) mount(ctx context.Context, tag, at string) error {
	if err := h.run(ctx, "mkdir", "-p", at); err != nil {
		return err
	}
	for {
		err := h.run(ctx, "mount", "-t", "virtiofs", tag, at)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// run runs a program through the guest agent, to its end.
func (h *handDomain) run(ctx context.Context, argv ...string) error {
	ask := func(verb string, arguments, answer any) error {
		question, err := json.Marshal(map[string]any{"execute": verb, "arguments": arguments})
		if err != nil {
			return err
		}
		text, err := h.domain.QemuAgentCommand(string(question), libvirt.DomainQemuAgentCommandTimeout(10), 0)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(text), &struct{ Return any }{answer})
	}
	var started struct {
		PID int `json:"pid"`
	}
	if err := ask("guest-exec", map[string]any{"path": argv[0], "arg": argv[1:]}, &started); err != nil {
		return err
	}
	for {
		var is struct {
			Exited bool `json:"exited"`
			Code   int  `json:"exitcode"`
		}
		if err := ask("guest-exec-status", map[string]int{"pid": started.PID}, &is); err != nil {
			return err
		}
		if is.Exited && is.Code != 0 {
			return fmt.Errorf("guest: %q: exit status %d", argv, is.Code)
		}
		if is.Exited {
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

func (d *handDevice) end() error {
	err := d.daemon.Process.Kill()
	_ = d.daemon.Wait()
	return errors.Join(err, os.RemoveAll(d.socket))
}

func await(ctx context.Context, events <-chan string, alias string) error {
	for {
		select {
		case got := <-events:
			if got == alias {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("event of %s: %w", alias, context.Cause(ctx))
		}
	}
}

// awaitSocket waits until the daemon listens, by the kernel's table
// (net/unix/af_unix.c: __SO_ACCEPTCON). To connect would use up its one
// connection.
func awaitSocket(ctx context.Context, path string) error {
	for {
		table, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(table)) {
			if f := strings.Fields(line); len(f) == 8 && f[3] == "00010000" && f[7] == path {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("socket %s: %w", path, context.Cause(ctx))
		case <-time.After(time.Millisecond):
		}
	}
}
