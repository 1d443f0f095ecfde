// Package unit runs launchers as transient services of systemd.
//
//	causeway.slice
//	 `- causeway-gateways.slice
//	     |- causeway-gateway-blue.service
//	     `- causeway-bus-blue.service
//
// systemd holds them to their limits and keeps them in cgroups of their own, so
// that nothing that is done to the agent's unit touches them. It does not start
// them again: the agent does, who knows what must come first. A unit ends with
// its process, however that ended, and is then forgotten by systemd, so that
// nothing here has to stop one (CollectMode, systemd.unit(5)).
//
// What a unit may is bounded twice: here by what the launcher needs, and by the
// launcher to what the program needs. systemd's own sandbox, ProtectSystem and
// PrivateTmp, is not used: the launcher's root holds less than it leaves.
package unit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/unit"
	"github.com/godbus/dbus/v5"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/agent/process/cgroup"
)

// Options of Units.
type Options struct {
	CgroupRoot string       // cgroup.DefaultRoot when empty
	Logger     *slog.Logger // none when nil
}

// Units implements process.Units. Connections to systemd are made when they
// are needed, and again after systemd or the system bus began anew.
type Units struct {
	root string
	log  *slog.Logger

	mu   sync.Mutex
	conn *systemd.Conn
	end  context.CancelCauseFunc // of the connection
	ends *ends
}

// New does nothing but return.
func New(o Options) *Units {
	if o.CgroupRoot == "" {
		o.CgroupRoot = cgroup.DefaultRoot
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Units{root: o.CgroupRoot, log: o.Logger}
}

// Check says why units cannot be started now, or nil.
func (u *Units) Check(ctx context.Context) error {
	_, err := u.connection(ctx)
	return err
}

// Close ends the connections. The units go on.
func (u *Units) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeLocked()
}

func (u *Units) closeLocked() {
	if u.conn != nil {
		u.conn.Close()
		u.end(nil)
		u.conn = nil
	}
	if u.ends != nil {
		u.ends.close()
	}
}

// connection to systemd by the system bus, or by its own socket where there is
// no bus.
func (u *Units) connection(ctx context.Context) (*systemd.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.conn != nil && u.conn.Connected() {
		return u.conn, nil
	}
	u.closeLocked()
	// Its life is not the caller's: a context that ends closes it.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	patience := time.AfterFunc(connecting, func() { end(context.DeadlineExceeded) })
	c, err := systemd.NewWithContext(life)
	if err == nil && !patience.Stop() {
		c.Close()
		err = context.Cause(life)
	}
	if err != nil {
		end(err)
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	u.conn, u.end = c, end
	last := u.ends
	if u.ends, err = watchEnds(last); err != nil {
		u.log.Warn("systemd will not tell why units end", "err", err)
	}
	return c, nil
}

// connecting may take so long, and settling a unit of an ended process to go.
const (
	connecting = 5 * time.Second
	settling   = 10 * time.Second
)

// Run implements process.Units.
func (u *Units) Run(ctx context.Context, s process.Spec, command []string) (<-chan string, error) {
	name, err := Name(s.Name)
	if err != nil {
		return nil, err
	}
	if s.NetNS != "" { // of which systemd would say a number
		if _, err := os.Stat(s.NetNS); err != nil {
			return nil, fmt.Errorf("network namespace: %w", err)
		}
	}
	c, err := u.connection(ctx)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeoutCause(ctx, settling, fmt.Errorf("an earlier one did not go in %s", settling))
	defer cancel()
	p, err := properties(s, command)
	if err != nil {
		return nil, fmt.Errorf("unit %s: %w", name, err)
	}
	done := make(chan string, 1)
	for {
		_, err = c.StartTransientUnitContext(within, name, "fail", p, done)
		if !is(err, "org.freedesktop.systemd1.UnitExists") {
			break
		}
		if err := u.clear(within, c, clearOptions{unit: name, spec: s}); err != nil {
			return nil, fmt.Errorf("unit %s: %w", name, err)
		}
		if within.Err() != nil {
			return nil, fmt.Errorf("unit %s: %w", name, context.Cause(within))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("start unit %s: %w", name, err)
	}
	return done, nil
}

type clearOptions struct {
	unit string
	spec process.Spec
}

// clear takes away a unit that came of an earlier start of the same process:
// it ended an instant ago and systemd has not forgotten it yet, or its launcher
// has lost its agent.
func (u *Units) clear(ctx context.Context, c *systemd.Conn, o clearOptions) error {
	p, err := c.GetUnitPropertiesContext(ctx, o.unit)
	if err != nil {
		return err
	}
	if about, ok := p["Description"].(string); ok && p["LoadState"] == "loaded" && about != description(o.spec) {
		return fmt.Errorf("it is somebody else's: %q", about)
	}
	switch p["ActiveState"] {
	case "active", "activating", "reloading":
		err = c.KillUnitWithTarget(ctx, o.unit, systemd.All, 9)
	case "failed":
		err = c.ResetFailedUnitContext(ctx, o.unit)
	}
	if err != nil && !unknown(err) {
		return err
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Millisecond):
	}
	return nil
}

// Kill implements process.Units.
func (u *Units) Kill(ctx context.Context, n process.Name) error {
	name, err := Name(n)
	if err != nil {
		return err
	}
	c, err := u.connection(ctx)
	if err != nil {
		return err
	}
	if err := c.KillUnitWithTarget(ctx, name, systemd.All, 9); err != nil && !unknown(err) {
		return fmt.Errorf("kill unit %s: %w", name, err)
	}
	return nil
}

// unknown: systemd has no such unit, or it has no process.
func unknown(err error) bool {
	return is(err, "org.freedesktop.systemd1.NoSuchUnit") || is(err, "org.freedesktop.systemd1.NoSuchProcess") ||
		is(err, "org.freedesktop.DBus.Error.UnknownObject")
}

func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == name
}

// Hits implements process.Units. systemd tells of memory at the end, where it
// knows: on hosts with control groups of version 2. It takes the counters away
// with the process.
func (u *Units) Hits(n process.Name) (process.Hits, error) {
	name, err := Name(n)
	if err != nil {
		return process.Hits{}, err
	}
	h, err := cgroup.Read(u.root, filepath.Join("causeway.slice", slice(n), name))
	if err != nil {
		return process.Hits{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	h.Memory = u.ends.killed(name)
	return h, nil
}

var groupPattern = regexp.MustCompile(`^[a-z]+$`)

// Name is that of the unit of a process. A dash in it is left as it is: it
// means something in the names of slices alone.
func Name(n process.Name) (string, error) {
	if !groupPattern.MatchString(n.Group) || n.Own == "" {
		return "", fmt.Errorf("unit of %q in %q: the process has no name", n.Own, n.Group)
	}
	name := "causeway-" + strings.ReplaceAll(unit.UnitNameEscape(n.Own), `\x2d`, "-") + ".service"
	// UNIT_NAME_MAX of systemd, with the NUL.
	if len(name) > 255 {
		return "", fmt.Errorf("unit of %q: its name would have %d bytes, more than 255", n.Own, len(name))
	}
	return name, nil
}

func slice(n process.Name) string { return "causeway-" + n.Group + ".slice" }

// description says whose a unit is: of two agents on a host, each leaves the
// other's alone.
func description(s process.Spec) string {
	return fmt.Sprintf("Causeway %s (%s)", s.Name.Own, s.Dir)
}
