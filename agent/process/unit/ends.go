package unit

import (
	"strings"
	"sync"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// ends counts the units of ours that were killed for memory. systemd says it
// once, in a signal, and then forgets the unit; it may say so a moment after
// the process has ended. What ends while no agent runs is in the journal only.
// go-systemd passes on properties of type Unit alone, and the result is one of
// type Service.
type ends struct {
	conn *dbus.Conn
	left chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	kills map[string]uint64 // by unit
}

// The objects of units and their properties, see org.freedesktop.systemd1(5).
const (
	unitPath  = "/org/freedesktop/systemd1/unit/"
	ownPrefix = "causeway_2d" // "causeway-", as it is in an object's path
)

// watchEnds goes on from what last remembers, which may be nil.
func watchEnds(last *ends) (*ends, error) {
	e := &ends{kills: map[string]uint64{}, left: make(chan struct{})}
	if last != nil {
		last.mu.Lock()
		e.kills = last.kills
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
	// The signal tells of other changes too, and repeats the result: the
	// process is counted when it has been given up.
	if changed["Result"].Value() != "oom-kill" || changed["MainPID"].Value() != uint32(0) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kills[own]++
}

// killed tells how often that happened to a unit.
func (e *ends) killed(unit string) uint64 {
	if e == nil {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.kills[systemd.PathBusEscape(unit)]
}

func (e *ends) close() {
	if e.conn != nil {
		e.conn.Close()
	}
	<-e.left
}
