package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/causeway-project/causeway/integration/wait"
)

// ExitError of a program in a guest.
type ExitError struct {
	Argv   []string
	Code   int
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("guest: %s: exit status %d: %s", strings.Join(e.Argv, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// Exec runs a program in the guest to its end and returns what it printed. A
// program that fails is an *ExitError. One that outlives ctx goes on.
func (g *Guest) Exec(ctx context.Context, argv ...string) (string, error) {
	pid, err := g.spawn(ctx, argv)
	if err != nil {
		return "", err
	}
	var status struct {
		Exited    bool   `json:"exited"`
		Code      int    `json:"exitcode"`
		Signal    int    `json:"signal"`
		Out       []byte `json:"out-data"`
		Err       []byte `json:"err-data"`
		Shortened bool   `json:"out-truncated"`
	}
	if err := wait.For(ctx, func() (bool, error) {
		err := g.ask(ctx, "guest-exec-status", map[string]any{"pid": pid}, &status)
		return err == nil && status.Exited, err
	}); err != nil {
		return "", fmt.Errorf("guest %s: %s: %w", g.Name, strings.Join(argv, " "), err)
	}
	if status.Signal != 0 {
		status.Code = 128 + status.Signal
	}
	if status.Code != 0 {
		return string(status.Out), &ExitError{Argv: argv, Code: status.Code, Stderr: string(status.Err)}
	}
	if status.Shortened {
		return "", fmt.Errorf("guest %s: %s: its output is too long", g.Name, strings.Join(argv, " "))
	}
	return string(status.Out), nil
}

// Shell runs a script with the guest's sh -e.
func (g *Guest) Shell(ctx context.Context, script string) (string, error) {
	return g.Exec(ctx, "sh", "-ec", script)
}

func (g *Guest) spawn(ctx context.Context, argv []string) (pid int, err error) {
	var started struct {
		PID int `json:"pid"`
	}
	// A lost answer would start it twice; so the agent is asked first whether it
	// listens, which may be repeated.
	if err := wait.For(ctx, func() (bool, error) {
		err := g.ask(ctx, "guest-ping", nil, nil)
		return err == nil, err
	}); err != nil {
		return 0, fmt.Errorf("guest %s: %w", g.Name, err)
	}
	arguments := map[string]any{"path": argv[0], "arg": argv[1:], "capture-output": true}
	if err := g.ask(ctx, "guest-exec", arguments, &started); err != nil {
		return 0, fmt.Errorf("guest %s: start %s: %w", g.Name, argv[0], err)
	}
	return started.PID, nil
}

// ask sends one command to the guest agent.
func (g *Guest) ask(ctx context.Context, verb string, arguments, answer any) error {
	if !g.agent {
		return errors.New("it has no guest agent")
	}
	request := map[string]any{"execute": verb}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return g.with(func(d *libvirt.Domain) error {
		reply, err := d.QemuAgentCommand(string(text), libvirt.DomainQemuAgentCommandTimeout(seconds(ctx)), 0)
		if err != nil || answer == nil {
			return err
		}
		var envelope struct {
			Return json.RawMessage `json:"return"`
		}
		if err := json.Unmarshal([]byte(reply), &envelope); err != nil {
			return fmt.Errorf("answer of the guest agent: %w", err)
		}
		return json.Unmarshal(envelope.Return, answer)
	})
}

// seconds left to ctx, at least 1 and at most 10, as libvirt counts them.
func seconds(ctx context.Context) int {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 10
	}
	return max(1, min(10, int(time.Until(deadline)/time.Second)))
}

// MountNFS mounts an export in the guest with the kernel's client, hard. The client's own address is told to it, since busybox looks for none.
func (g *Guest) MountNFS(ctx context.Context, m NFSMount) error {
	if _, err := g.Exec(ctx, "mkdir", "-p", m.At); err != nil {
		return err
	}
	kind := "nfs4"
	options := "vers=" + cmp.Or(m.Version, "4.2") + ",proto=tcp,addr=" + m.Server + ",clientaddr=" + m.Client
	if m.Version == "3" {
		kind, options = "nfs", "vers=3,proto=tcp,mountproto=tcp,addr="+m.Server+",mountaddr="+m.Server
	}
	if strings.Contains(m.Server, ":") {
		options = strings.Replace(options, "proto=tcp,", "proto=tcp6,", 1)
	}
	if m.Options != "" {
		options += "," + m.Options
	}
	server := m.Server
	if strings.Contains(server, ":") {
		server = "[" + server + "]"
	}
	_, err := g.Exec(ctx, "mount", "-i", "-t", kind, "-o", options, server+":"+m.Path, m.At)
	return err
}

// An NFSMount in a guest.
type NFSMount struct {
	Server  string // required: its address
	Path    string // required: of the export in the server's pseudo file system
	Client  string // required: the guest's address
	At      string // required: where in the guest
	Version string // "3" or "4.0" to "4.2", which is the default; 3 over IPv4 alone
	Options string // more of nfs(5), comma-separated
}

// MountVirtiofs mounts a virtiofs device by its tag. That libvirt has plugged
// the device in does not mean that the guest has seen it: so it is tried until
// ctx ends.
func (g *Guest) MountVirtiofs(ctx context.Context, tag, at string) error {
	if _, err := g.Exec(ctx, "mkdir", "-p", at); err != nil {
		return err
	}
	return wait.For(ctx, func() (bool, error) {
		_, err := g.Exec(ctx, "mount", "-t", "virtiofs", tag, at)
		return err == nil, err
	})
}

// Unmount what is mounted there.
func (g *Guest) Unmount(ctx context.Context, at string) error {
	_, err := g.Exec(ctx, "umount", at)
	return err
}
