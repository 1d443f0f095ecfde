package unit

import (
	"strings"
	"sync"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// ends remembers how the units of ours ended. systemd says it once, in a
// signal, and then forgets the unit. What ends while no agent runs is in the
// journal only. go-systemd passes on properties of type Unit alone, and the
// result is one of type Service.
type ends struct {
	conn *dbus.Conn
	left chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	results map[string]string // by unit, other than "success"
}

// The objects of units and their properties, see org.freedesktop.systemd1(5).
const (
	unitPath  = "/org/freedesktop/systemd1/unit/"
	ownPrefix = "causeway_2d" // "causeway-", as it is in an object's path
)

// watchEnds goes on from what last remembers, which may be nil.
func watchEnds(last *ends) (*ends, error) {
	e := &ends{results: map[string]string{}, left: make(chan struct{})}
	if last != nil {
		last.mu.Lock()
		e.results = last.results
		last.mu.Unlock()
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		close(e.left)
		return e, err
	}
	e.conn = conn
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go func() {
		defer close(e.left)
		for s := range signals { // closed with the connection
			e.hear(s)
		}
	}()
	err = conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"),
		dbus.WithMatchPathNamespace("/org/freedesktop/systemd1/unit"), dbus.WithMatchArg(0, "org.freedesktop.systemd1.Service"))
	if err == nil {
		err = conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").Call("org.freedesktop.systemd1.Manager.Subscribe", 0).Err
	}
	return e, err
}

func (e *ends) hear(s *dbus.Signal) {
	own, ok := strings.CutPrefix(string(s.Path), unitPath)
	if !ok || !strings.HasPrefix(own, ownPrefix) || len(s.Body) < 2 {
		return
	}
	changed, ok := s.Body[1].(map[string]dbus.Variant)
	if !ok {
		return
	}
	result, ok := changed["Result"].Value().(string)
	if !ok || result == "success" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.results[own] = result
}

// result of the unit's last end; empty where it was good, or is not known.
func (e *ends) result(unit string) string {
	if e == nil {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.results[systemd.PathBusEscape(unit)]
}

func (e *ends) forget(unit string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.results, systemd.PathBusEscape(unit))
}

func (e *ends) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	<-e.left
}
