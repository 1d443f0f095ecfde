package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/wait"
)

// fakeAgent answers each call with the next of its answers, and goes on with
// the last.
type fakeAgent struct {
	nodev1.UnimplementedAttachmentsServer

	mu      sync.Mutex
	calls   int
	answers []error // of Detach; nil is success
	synced  []bool  // of Node.Get
	watches []watchTurn
}

// watchTurn is one Watch: what is sent, then how it ends; nil lasts.
type watchTurn struct {
	events []*nodev1.WatchResponse
	err    error
}

func next[T any](f *fakeAgent, all *[]T) (v T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if len(*all) > 0 {
		v = (*all)[0]
	}
	if len(*all) > 1 {
		*all = (*all)[1:]
	}
	return v
}

func (f *fakeAgent) Detach(context.Context, *nodev1.DetachRequest) (*nodev1.DetachResponse, error) {
	return &nodev1.DetachResponse{}, next(f, &f.answers)
}

type nodeServer struct {
	*fakeAgent
	nodev1.UnimplementedNodeServer
}

func (s nodeServer) Get(context.Context, *nodev1.GetNodeRequest) (*nodev1.GetNodeResponse, error) {
	return &nodev1.GetNodeResponse{InSync: next(s.fakeAgent, &s.synced)}, nil
}

func (s nodeServer) Watch(_ *nodev1.WatchRequest, stream grpc.ServerStreamingServer[nodev1.WatchResponse]) error {
	turn := next(s.fakeAgent, &s.watches)
	for _, r := range turn.events {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	if turn.err != nil {
		return turn.err
	}
	<-stream.Context().Done()
	return nil
}

// serve the fake at a socket, which must be short.
func (f *fakeAgent) serve(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	nodev1.RegisterAttachmentsServer(server, f)
	nodev1.RegisterNodeServer(server, nodeServer{fakeAgent: f})
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw-client-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func agentError(code codes.Code, reason, message string, metadata map[string]string) error {
	s, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "node.causeway", Metadata: metadata})
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func detach(ctx context.Context, c *Client) error {
	_, err := c.Attachments.Detach(ctx, &nodev1.DetachRequest{Id: "a"})
	return err
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestSocketPath(t *testing.T) {
	for _, s := range []string{"unix:///a/b", "unix:/a/b", "/a/b"} {
		if path, err := SocketPath(s); err != nil || path != "/a/b" {
			t.Errorf("%s: %s, %v", s, path, err)
		}
	}
	for _, s := range []string{"a/b", "unix:a", "tcp://a:1", "unix://"} {
		if _, err := New(Options{Socket: s}); err == nil {
			t.Errorf("%s is taken", s)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		name      string
		err       error
		want      Error
		retryable bool
	}{
		{name: "of the agent", err: agentError(codes.FailedPrecondition, "no_free_port", "no port is free: stop", map[string]string{"free": "0"}),
			want: Error{Code: codes.FailedPrecondition, Reason: "no_free_port", Message: "no port is free: stop", Metadata: map[string]string{"free": "0"}}},
		{name: "of gRPC", err: status.Error(codes.Unimplemented, "unknown method"), want: Error{Code: codes.Unimplemented, Message: "unknown method"}},
		{name: "away", err: agentError(codes.Unavailable, "not_in_sync", "wait", nil), want: Error{Code: codes.Unavailable, Reason: "not_in_sync", Message: "wait"}, retryable: true},
		{name: "slow", err: agentError(codes.DeadlineExceeded, "deadline", "again", nil), want: Error{Code: codes.DeadlineExceeded, Reason: "deadline", Message: "again"}, retryable: true},
		{name: "busy", err: agentError(codes.Aborted, "being_removed", "again", nil), want: Error{Code: codes.Aborted, Reason: "being_removed", Message: "again"}, retryable: true},
		{name: "changed", err: agentError(codes.Aborted, "changed_meanwhile", "look", nil), want: Error{Code: codes.Aborted, Reason: "changed_meanwhile", Message: "look"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			(&fakeAgent{answers: []error{test.err}}).serve(t, socket)
			err := detach(limited(t), newClient(t, Options{Socket: socket, Once: true}))
			var got *Error
			if !errors.As(err, &got) {
				t.Fatalf("got %T: %v", err, err)
			}
			if diff := cmp.Diff(test.want, Error{Code: got.Code, Reason: got.Reason, Message: got.Message, Metadata: got.Metadata}, cmp.AllowUnexported(Error{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Retryable() != test.retryable || status.Code(err) != test.want.Code || got.Error() != test.want.Message {
				t.Errorf("retryable %v, code %v, text %q", got.Retryable(), status.Code(err), got)
			}
		})
	}
}

func TestTriesAgainWhileAway(t *testing.T) {
	away, denied := agentError(codes.Unavailable, "libvirt_unavailable", "away", nil), agentError(codes.PermissionDenied, "caller_not_allowed", "no", nil)
	for _, test := range []struct {
		name    string
		answers []error
		once    bool
		calls   int
		code    codes.Code
	}{
		{"comes back", []error{away, away, nil}, false, 3, codes.OK},
		{"once", []error{away, nil}, true, 1, codes.Unavailable},
		{"other errors are final", []error{away, denied, nil}, false, 2, codes.PermissionDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			f := &fakeAgent{answers: test.answers}
			f.serve(t, socket)
			c := newClient(t, Options{Socket: socket, Once: test.once})
			if err := detach(limited(t), c); status.Code(err) != test.code || f.calls != test.calls {
				t.Errorf("%d calls, %v; want %d, %v", f.calls, err, test.calls, test.code)
			}
		})
	}
	t.Run("for as long as the context lasts", func(t *testing.T) {
		socket := socketPath(t)
		f := &fakeAgent{answers: []error{away}}
		f.serve(t, socket)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var e *Error
		if err := detach(ctx, newClient(t, Options{Socket: socket})); !errors.As(err, &e) || e.Reason != "libvirt_unavailable" && e.Code != codes.DeadlineExceeded || f.calls < 2 {
			t.Errorf("%d calls, %v", f.calls, err)
		}
	})
}

// TestUnreached: an agent that starts during a call is reached, and that none
// listens says so.
func TestUnreached(t *testing.T) {
	socket := socketPath(t)
	var u *Unreached
	if err := detach(limited(t), newClient(t, Options{Socket: socket, Once: true})); !errors.As(err, &u) || !errors.Is(err, fs.ErrNotExist) || u.Socket != socket || status.Code(err) != codes.Unavailable {
		t.Errorf("without a socket: %v", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{Socket: socket, Once: true})
	if err := detach(limited(t), c); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a listener: %v", err)
	}
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	waiting := newClient(t, Options{Socket: socket})
	go func() { done <- detach(limited(t), waiting) }()
	wait.Until(t, "it has dialed", func() bool { return waiting.dialed.Load() != nil })
	(&fakeAgent{}).serve(t, socket)
	if err := <-done; err != nil {
		t.Errorf("the agent came meanwhile: %v", err)
	}
}

func put(id string, phase nodev1.Phase) *nodev1.WatchResponse {
	return event(nodev1.WatchResponse_TYPE_PUT, id, phase)
}

func event(of nodev1.WatchResponse_Type, id string, phase nodev1.Phase) *nodev1.WatchResponse {
	return &nodev1.WatchResponse{Type: of, Object: &nodev1.WatchResponse_Attachment{Attachment: &nodev1.Attachment{
		Id: id, Status: &nodev1.Status{Phase: phase, Reason: "r"}}}}
}

func synced() *nodev1.WatchResponse {
	return &nodev1.WatchResponse{Type: nodev1.WatchResponse_TYPE_SYNCED}
}

var (
	overrun  = agentError(codes.Aborted, "watch_overrun", "slow", nil)
	stopping = agentError(codes.Unavailable, "shutting_down", "stops", nil)
)

func TestWatchGoesOn(t *testing.T) {
	const ready, working = nodev1.Phase_PHASE_READY, nodev1.Phase_PHASE_WORKING
	turns := func(second error) []watchTurn {
		return []watchTurn{
			{[]*nodev1.WatchResponse{put("a", ready), put("gone", working), synced(), put("b", working)}, overrun},
			{[]*nodev1.WatchResponse{put("a", ready), put("b", ready), synced()}, second},
			{[]*nodev1.WatchResponse{put("a", ready), synced(), put("end", ready)}, nil},
		}
	}
	upToSecond := []string{"TYPE_PUT a", "TYPE_PUT gone", "TYPE_SYNCED ", "TYPE_PUT b", "TYPE_PUT a", "TYPE_PUT b", "TYPE_DELETED gone", "TYPE_SYNCED "}
	for _, test := range []struct {
		name   string
		once   bool
		second error
		want   []string
		code   codes.Code
	}{
		{"overrun and restart", false, stopping, append(slices.Clone(upToSecond), "TYPE_PUT a", "TYPE_DELETED b", "TYPE_SYNCED ", "TYPE_PUT end"), codes.OK},
		{"once", true, stopping, upToSecond, codes.Unavailable},
		{"what nobody can cure", false, agentError(codes.PermissionDenied, "caller_not_allowed", "no", nil), upToSecond, codes.PermissionDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			(&fakeAgent{watches: turns(test.second)}).serve(t, socket)
			var got []string
			var failure error
			for r, err := range newClient(t, Options{Socket: socket, Once: test.once}).Watch(limited(t)) {
				if err != nil {
					failure = err
					continue
				}
				got = append(got, r.GetType().String()+" "+r.GetAttachment().GetId())
				if r.GetAttachment().GetId() == "end" {
					break
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" || status.Code(failure) != test.code {
				t.Errorf("%v (-want +got):\n%s", failure, diff)
			}
		})
	}
}

func TestWaitAttachment(t *testing.T) {
	const ready, working = nodev1.Phase_PHASE_READY, nodev1.Phase_PHASE_WORKING
	for _, test := range []struct {
		name   string
		events []*nodev1.WatchResponse
		code   codes.Code
		reason string
	}{
		{"there already", []*nodev1.WatchResponse{put("b", working), put("a", ready)}, codes.OK, ""},
		{"later", []*nodev1.WatchResponse{put("a", working), synced(), put("b", ready), put("a", ready)}, codes.OK, ""},
		{"not there", []*nodev1.WatchResponse{put("b", ready), synced()}, codes.NotFound, "unknown_id"},
		{"goes", []*nodev1.WatchResponse{put("a", working), synced(), event(nodev1.WatchResponse_TYPE_DELETED, "a", ready)}, codes.NotFound, "unknown_id"},
		{"given up", []*nodev1.WatchResponse{put("a", working), synced()}, codes.Canceled, "r"},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := socketPath(t)
			(&fakeAgent{watches: []watchTurn{{events: test.events}}}).serve(t, socket)
			ctx, cancel := context.WithCancel(limited(t))
			defer cancel()
			a, err := newClient(t, Options{Socket: socket}).WaitAttachment(ctx, "a", func(a *nodev1.Attachment) bool {
				if test.code == codes.Canceled {
					cancel()
				}
				return Ready(a)
			})
			if test.code == codes.OK {
				if err != nil || a.GetId() != "a" || !Ready(a) {
					t.Errorf("%v, %v", a, err)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != test.code || e.Reason != test.reason || status.Code(err) != test.code {
				t.Errorf("%v, %#v", a, err)
			}
		})
	}
}

func TestWaitInSync(t *testing.T) {
	socket := socketPath(t)
	f := &fakeAgent{synced: []bool{false, false, true}}
	f.serve(t, socket)
	if n, err := newClient(t, Options{Socket: socket}).WaitInSync(limited(t)); err != nil || !n.GetInSync() || f.calls != 3 {
		t.Errorf("%v, %v after %d calls", n, err, f.calls)
	}
}

// TestShareStatusOf reads the table of docs/nova.md.
func TestShareStatusOf(t *testing.T) {
	page, err := os.ReadFile("../../../docs/nova.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `(PHASE_\\w+)` \\|([^|]*)\\| `(\\w+)` \\|").FindAllStringSubmatch(string(page), -1)
	if len(rows) <= len(nodev1.Phase_name) {
		t.Errorf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		reasons := regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(row[2], -1)
		if len(reasons) == 0 { // any, or any other
			reasons = [][]string{{"", "of_tomorrow"}}
		}
		for _, reason := range reasons {
			a := &nodev1.Attachment{Status: &nodev1.Status{Phase: nodev1.Phase(nodev1.Phase_value[row[1]]), Reason: reason[1]}}
			if got := ShareStatusOf(a); string(got) != row[3] {
				t.Errorf("%s %s: %s, want %s", row[1], reason[1], got, row[3])
			}
		}
	}
}
