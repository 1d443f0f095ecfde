package ganesha

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names on the bus, by introspection of Ganesha 4.3.
const (
	busName      = "org.ganesha.nfsd"
	exportPath   = dbus.ObjectPath("/org/ganesha/nfsd/ExportMgr")
	exportMember = "org.ganesha.nfsd.exportmgr."
	adminPath    = dbus.ObjectPath("/org/ganesha/nfsd/admin")
	adminIface   = "org.ganesha.nfsd.admin"

	invalidArgs = "org.freedesktop.DBus.Error.InvalidArgs"
	invalidFile = "org.freedesktop.DBus.Error.InvalidFileContent"
)

// A client is one connection to a gateway's bus.
type client struct {
	conn *dbus.Conn
}

// dial connects to the bus and returns when it answers. The socket's own
// deadline bounds the greeting, for which the library takes no context.
func dial(ctx context.Context, socket string, limit time.Duration) (*client, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	sock, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := sock.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	conn, err := dbus.NewConn(buffered{sock, bufio.NewReader(sock)})
	if err != nil {
		return nil, errors.Join(err, sock.Close())
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))})
	if err == nil {
		err = conn.Hello()
	}
	if err == nil {
		err = sock.SetDeadline(time.Time{})
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &client{conn: conn}, nil
}

// buffered reads ahead: the library takes each field of an answer with a read
// of its own, some thirty for a short one.
type buffered struct {
	net.Conn
	in *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.in.Read(p) }

func (c *client) close() { _ = c.conn.Close() } // nothing is buffered, so nothing can be lost

func (c *client) alive() bool { return c != nil && c.conn.Connected() }

// ping asks the bus itself.
func (c *client) ping(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err
}

// call asks Ganesha, stores the answer, and says ErrNotRunning where nobody
// answers within limit.
func (c *client) call(ctx context.Context, limit time.Duration, q question, answer ...any) error {
	body, err := c.ask(ctx, limit, q)
	if err != nil {
		return err
	}
	if err := dbus.Store(body, answer...); err != nil {
		return fmt.Errorf("%s: %w", q.method, err)
	}
	return nil
}

// ask is call for an answer of which the form is not known before.
func (c *client) ask(ctx context.Context, limit time.Duration, q question) ([]any, error) {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	reply := c.conn.Object(busName, q.path).CallWithContext(bounded, q.method, dbus.FlagNoAutoStart, q.args...)
	err := reply.Err
	if err == nil {
		return reply.Body, nil
	}
	var said dbus.Error
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: no answer within %s: %w", q.method, limit, ErrNotRunning)
	case errors.As(err, &said) && !gone(said.Name):
		return nil, fmt.Errorf("%s: %w", q.method, said)
	}
	return nil, fmt.Errorf("%s: %w: %w", q.method, err, ErrNotRunning)
}

type question struct {
	path   dbus.ObjectPath
	method string
	args   []any
}

// gone tells the bus's own answers for somebody who is not there from
// Ganesha's.
func gone(name string) bool {
	switch name {
	case "org.freedesktop.DBus.Error.ServiceUnknown",
		"org.freedesktop.DBus.Error.NameHasNoOwner",
		"org.freedesktop.DBus.Error.NoReply",
		"org.freedesktop.DBus.Error.Disconnected":
		return true
	}
	return false
}

// version asks Ganesha's D-Bus thread, so that a hung process is noticed; who
// owns the name is answered by the bus alone.
func (c *client) version(ctx context.Context, limit time.Duration) (string, error) {
	var v dbus.Variant
	err := c.call(ctx, limit, question{
		path:   adminPath,
		method: "org.freedesktop.DBus.Properties.Get",
		args:   []any{adminIface, "VERSION_RELEASE"},
	}, &v)
	if err != nil {
		return "", err
	}
	s, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("version of ganesha: a %s", v.Signature())
	}
	return s, nil
}

// owned waits until somebody owns Ganesha's name.
func (c *client) owned(ctx context.Context) error {
	changed := make(chan *dbus.Signal, 8)
	c.conn.Signal(changed)
	defer c.conn.RemoveSignal(changed)
	match := []dbus.MatchOption{
		dbus.WithMatchInterface("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"),
		dbus.WithMatchArg(0, busName),
	}
	if err := c.conn.AddMatchSignalContext(ctx, match...); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.conn.RemoveMatchSignalContext(ctx, match...) // a bus that is gone has forgotten it
	}()
	for {
		// Asked after the match is in place, so that no change is missed.
		var has bool
		if err := c.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&has); err != nil {
			return err
		}
		if has {
			return nil
		}
		select {
		case <-changed:
		case <-c.conn.Context().Done():
			return dbus.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// show reads one export back; nil where Ganesha has none of that id.
func (c *client) show(ctx context.Context, limit time.Duration, id uint16) (*shownExport, error) {
	var s shownExport
	var pseudo string // shows the path: not what its name says
	err := c.call(ctx, limit, question{path: exportPath, method: exportMember + "DisplayExport", args: []any{id}},
		&s.ID, &s.Path, &pseudo, &s.Tag, &s.Clients)
	if errorName(err) == invalidArgs {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &s, nil
}

// A listed export is one of ShowExports.
type listed struct {
	id   uint16
	path string // its pseudo path where NFSv3 is served
}

// list is every export but the pseudo root. An entry begins with id and path;
// what follows differs between versions of Ganesha.
func (c *client) list(ctx context.Context, limit time.Duration) ([]listed, error) {
	var now []any
	var exports [][]any
	err := c.call(ctx, limit, question{path: exportPath, method: exportMember + "ShowExports"}, &now, &exports)
	if err != nil {
		return nil, err
	}
	list := make([]listed, 0, len(exports))
	for _, e := range exports {
		if len(e) < 2 {
			return nil, fmt.Errorf("ShowExports: an export of %d fields", len(e))
		}
		id, isID := e[0].(uint16)
		path, isPath := e[1].(string)
		if !isID || !isPath {
			return nil, fmt.Errorf("ShowExports: an export begins with a %T and a %T", e[0], e[1])
		}
		if id != 0 {
			list = append(list, listed{id, path})
		}
	}
	return list, nil
}

// add and update read one export from file, which Ganesha opens in its own
// mount namespace. An answer with "Errors found" is a failure, though D-Bus
// calls it success: the export may be missing, or have defaults where the file
// could not be understood.
func (c *client) add(ctx context.Context, limit time.Duration, file string, id uint16) error {
	return c.load(ctx, limit, "AddExport", file, id)
}

func (c *client) update(ctx context.Context, limit time.Duration, file string, id uint16) error {
	return c.load(ctx, limit, "UpdateExport", file, id)
}

func (c *client) load(ctx context.Context, limit time.Duration, method, file string, id uint16) error {
	q := question{path: exportPath, method: exportMember + method, args: []any{file, fmt.Sprintf("EXPORT(Export_Id=%d)", id)}}
	return patiently(ctx, limit, func() error {
		var message string
		if err := c.call(ctx, limit, q, &message); err != nil {
			return refusal(id, err)
		}
		if strings.Contains(message, "Errors found") {
			return refuse(id, message)
		}
		return nil
	})
}

// remove withdraws an export that is there.
func (c *client) remove(ctx context.Context, limit time.Duration, id uint16) error {
	q := question{path: exportPath, method: exportMember + "RemoveExport", args: []any{id}}
	return patiently(ctx, limit, func() error { return refusal(id, c.call(ctx, limit, q)) })
}

// refusal makes Ganesha's own no an ErrRefused.
func refusal(id uint16, err error) error {
	switch errorName(err) {
	case invalidArgs, invalidFile:
		return refuse(id, err.Error())
	}
	return err
}

// patiently repeats what Ganesha puts off: the freeing of an export that was
// removed before goes on after the answer, and holds its admin lock.
func patiently(ctx context.Context, limit time.Duration, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := do()
		if err == nil || !strings.Contains(err.Error(), "try again later") {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// errorName is the D-Bus error's name, or empty.
func errorName(err error) string {
	var said dbus.Error
	if errors.As(err, &said) {
		return said.Name
	}
	return ""
}
