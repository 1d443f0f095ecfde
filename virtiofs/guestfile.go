package virtiofs

import (
	"context"
	"errors"
	"fmt"
)

// mountTable of the guest agent's own mount namespace.
const mountTable = "/proc/self/mounts"

// table reads the guest's mount table. The file commands need no process in the
// guest; where they are forbidden and programs are not, it is cat(1). What
// guest-get-fsinfo shows is of no use: it leaves out what has no block device.
func (s *session) table(ctx context.Context) (string, error) {
	table, err := s.readFile(ctx, mountTable)
	if !errors.Is(err, ErrGuestForbids) && !errors.Is(err, ErrGuestRefused) || ctx.Err() != nil {
		return table, err
	}
	if table, again := s.exec(ctx, "cat", mountTable); again == nil || !errors.Is(again, ErrGuestForbids) {
		return table, again
	}
	return "", err
}

// fileChunk is how much of a file is read at once. The agent sets so much aside
// and clears it, which takes a slow guest longer than to read a mount table.
const fileChunk = 16 << 10

// readFile reads a file of the guest, at most maxOutput bytes.
func (s *session) readFile(ctx context.Context, path string) (text string, err error) {
	var handle int64
	if err := s.ask(ctx, "guest-file-open", map[string]string{"path": path, "mode": "r"}, &handle); err != nil {
		return "", err
	}
	defer func() {
		// The agent keeps what is left open until it ends.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), agentSeconds*second)
		defer cancel()
		_ = s.ask(ctx, "guest-file-close", map[string]int64{"handle": handle}, &struct{}{})
	}()
	var all []byte
	for {
		var got struct {
			Count int    `json:"count"`
			Data  []byte `json:"buf-b64"`
			EOF   bool   `json:"eof"`
		}
		if err := s.ask(ctx, "guest-file-read", map[string]int64{"handle": handle, "count": fileChunk}, &got); err != nil {
			return "", err
		}
		all = append(all, got.Data...)
		switch {
		case len(all) > maxOutput:
			return "", fmt.Errorf("%w: %s has more than %d bytes", ErrGuestRefused, path, maxOutput)
		case got.EOF:
			return string(all), nil
		case len(got.Data) == 0:
			return "", fmt.Errorf("%w: guest-file-read: no bytes, and no end", ErrGuestRefused)
		}
	}
}

// forbidden tells whether the agent says of itself that it has a command and
// must not use it, as distributions have it that ship it with a list of those
// (BLACKLIST_RPC, allow-rpcs).
func (s *session) forbidden(ctx context.Context, command string) bool {
	var info struct {
		Commands []struct {
			Name    string `json:"name"`
			Enabled bool   `json:"enabled"`
		} `json:"supported_commands"`
	}
	if err := s.ask(ctx, "guest-info", struct{}{}, &info); err != nil {
		return false
	}
	for _, c := range info.Commands {
		if c.Name == command {
			return !c.Enabled
		}
	}
	// An agent for another system, such as FreeBSD's, may not have it at all.
	return len(info.Commands) > 0
}
