package virtiofs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
)

// What a guest says is a stranger's word: bounded, and quoted when shown.
const (
	maxOutput = 1 << 20 // bytes of a program's output that are read
	maxWords  = 300     // bytes of it that are shown
)

const second = time.Second

const (
	// agentSeconds is how long the guest agent may take to answer one command.
	// It answers at once, or hangs.
	agentSeconds = 5
	// Between questions whether a program has ended: a quarter of the time that it
	// has had, since each takes the guest away from it.
	minStatus = 2 * time.Millisecond
	maxStatus = 200 * time.Millisecond
)

// errNonsense is an ErrGuestRefused that trying again does not cure.
var errNonsense = fmt.Errorf("%w: its agent does not answer as the protocol says", ErrGuestRefused)

// A session talks to one instance's guest agent
// (https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html).
type session struct {
	h    *Host
	uuid string
}

// guest begins a session. Whether there is anybody to talk to, libvirt says to
// the first question.
func (h *Host) guest(uuid string) *session { return &session{h: h, uuid: uuid} }

// do runs a program in the guest for its effect.
func (s *session) do(ctx context.Context, program string, args ...string) error {
	_, err := s.exec(ctx, program, args...)
	return err
}

// execArguments of guest-exec.
type execArguments struct {
	Path    string   `json:"path"`
	Arg     []string `json:"arg,omitempty"` // the agent refuses null
	Env     []string `json:"env,omitempty"`
	Capture bool     `json:"capture-output"`
}

// execStatus is what guest-exec-status returns.
type execStatus struct {
	Exited   bool   `json:"exited"`
	ExitCode int    `json:"exitcode"`
	Signal   int    `json:"signal"`
	Out      []byte `json:"out-data"` // encoding/json decodes base64
	Err      []byte `json:"err-data"`
}

// exec runs a program in the guest, without a shell, and returns what it wrote:
// ErrGuestRefused when it failed. One that has not ended when ctx does has not
// failed: an unmount takes as long as the guest writes back what it has kept.
func (s *session) exec(ctx context.Context, program string, args ...string) (string, error) {
	var started struct {
		PID int `json:"pid"`
	}
	if err := s.ask(ctx, "guest-exec", execArguments{
		Path: program, Arg: args, Capture: true,
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"},
	}, &started); err != nil {
		return "", err
	}
	if started.PID <= 0 {
		return "", fmt.Errorf("%w: guest-exec: process %d", errNonsense, started.PID)
	}
	for begin := time.Now(); ; {
		var is execStatus
		if err := s.ask(ctx, "guest-exec-status", map[string]int{"pid": started.PID}, &is); err != nil {
			return "", err
		}
		if is.Exited {
			return is.result(program)
		}
		select {
		case <-time.After(max(minStatus, min(time.Since(begin)/4, maxStatus))):
		case <-ctx.Done():
			return "", fmt.Errorf("%s has not ended in the guest: %w", program, context.Cause(ctx))
		}
	}
}

// An exitError is ErrGuestRefused by a program.
type exitError struct {
	program string
	code    int
	words   string
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%v: %s: exit code %d: %s", ErrGuestRefused, e.program, e.code, quote(e.words))
}

func (e *exitError) Unwrap() error { return ErrGuestRefused }

// result of a program that has ended.
func (is *execStatus) result(program string) (string, error) {
	switch {
	case is.Signal != 0:
		return "", fmt.Errorf("%w: %s: killed by signal %d", ErrGuestRefused, program, is.Signal)
	case is.ExitCode != 0:
		words := is.Err
		if len(words) == 0 {
			words = is.Out
		}
		return "", &exitError{program: program, code: is.ExitCode, words: string(words)}
	case len(is.Out) > maxOutput:
		return "", fmt.Errorf("%w: %s wrote %d bytes", ErrGuestRefused, program, len(is.Out))
	}
	return string(is.Out), nil
}

// ask has the agent run one command.
func (s *session) ask(ctx context.Context, command string, arguments, answer any) error {
	question, err := json.Marshal(map[string]any{"execute": command, "arguments": arguments})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	text, err := s.h.askAgent(ctx, s.uuid, string(question))
	if err != nil {
		err = s.agentError(ctx, command, err)
		if command != "guest-info" && errors.Is(err, ErrGuestRefused) && ctx.Err() == nil && s.forbidden(ctx, command) {
			return fmt.Errorf("%w: its configuration has no %s", ErrGuestForbids, command)
		}
		return err
	}
	reply := struct{ Return any }{answer}
	if err := json.Unmarshal([]byte(text), &reply); err != nil {
		return fmt.Errorf("%w: %s: %s", errNonsense, command, quote(err.Error()))
	}
	return nil
}

// agentError sorts what went wrong. What is left when libvirt, the instance and
// the agent's silence are ruled out is the agent's own refusal, for which
// libvirt 9.0 has no code; its text is the guest's.
func (s *session) agentError(ctx context.Context, command string, err error) error {
	var e libvirt.Error
	if !errors.As(err, &e) || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoInstance) || errors.Is(err, ErrGuestAgent) {
		return err
	}
	switch e.Code {
	case libvirt.ERR_OPERATION_INVALID:
		if i, again := s.h.live(ctx, s.uuid); again != nil {
			return again
		} else if !i.Running {
			return ErrInstanceOff
		}
		return fmt.Errorf("%w: %w", ErrGuestAgent, err) // suspended
	case libvirt.ERR_ARGUMENT_UNSUPPORTED, libvirt.ERR_NO_SUPPORT: // not configured
		return fmt.Errorf("%w: %w", ErrGuestAgent, err)
	}
	return fmt.Errorf("%w: %s: %s", ErrGuestRefused, command, quote(e.Message))
}

// quote shows a guest's words on one line, bounded, and harmless to a terminal.
func quote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > maxWords {
		s = s[:maxWords] + "..."
	}
	return fmt.Sprintf("%+q", s)
}
