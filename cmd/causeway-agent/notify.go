package main

import (
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A notifier tells systemd how the agent is (sd_notify(3)); without systemd it
// does nothing. It reads the socket's name once and takes it out of the
// environment: daemon.SdNotify wants it to stay there, where child processes
// inherit it, and some of those speak to whatever they find in it.
type notifier struct{ addr *net.UnixAddr }

func newNotifier() notifier {
	name := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET") // fails for malformed names only
	if name == "" {
		return notifier{}
	}
	return notifier{&net.UnixAddr{Name: name, Net: "unixgram"}}
}

// send one datagram of assignments.
func (n notifier) send(assignments ...string) error {
	if n.addr == nil {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte(strings.Join(assignments, "\n")))
	return err
}

// watchdog is how often systemd wants to hear from this process; 0 is never.
func watchdog() (time.Duration, error) {
	return daemon.SdWatchdogEnabled(true)
}

// oneLine fits text into a STATUS= assignment, where a newline would begin
// another assignment.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}
