package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/causeway-project/causeway/agent/access"
	"github.com/causeway-project/causeway/agent/model"
)

// fake keeps what it was given and answers what it was told to.
type fake struct {
	mu    sync.Mutex
	calls []string
	err   error
	hook  func(context.Context) error // called first, if set

	attachment model.Attachment
	network    model.Network
	export     model.Export
	instance   string
	events     []model.Event
}

func (f *fake) called(ctx context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	if f.hook != nil {
		if err := f.hook(ctx); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fake) Attach(ctx context.Context, a model.Attachment) (model.Attachment, error) {
	err := f.called(ctx, "Attach")
	f.attachment = a
	return a, err
}

func (f *fake) Detach(ctx context.Context, id string) error { return f.called(ctx, "Detach "+id) }

func (f *fake) Prepare(ctx context.Context, a model.Attachment, expires time.Time) (model.Attachment, error) {
	err := f.called(ctx, "Prepare until "+expires.UTC().Format(time.RFC3339))
	f.attachment = a
	return a, err
}

func (f *fake) Finish(ctx context.Context, id string) (model.Attachment, error) {
	return f.attachment, f.called(ctx, "Finish "+id)
}

func (f *fake) Release(ctx context.Context, id string, expires time.Time) (model.Attachment, error) {
	return f.attachment, f.called(ctx, "Release "+id+" until "+expires.UTC().Format(time.RFC3339))
}

func (f *fake) Rollback(ctx context.Context, id string) (model.Attachment, error) {
	return f.attachment, f.called(ctx, "Rollback "+id)
}

func (f *fake) ForceDetach(ctx context.Context, id string) error {
	return f.called(ctx, "ForceDetach "+id)
}

func (f *fake) Attachment(ctx context.Context, id string) (model.Attachment, error) {
	return f.attachment, f.called(ctx, "Attachment "+id)
}

func (f *fake) Attachments(ctx context.Context, instance string) ([]model.Attachment, error) {
	err := f.called(ctx, "Attachments")
	f.instance = instance
	return []model.Attachment{f.attachment}, err
}

func (f *fake) PrepareStart(ctx context.Context, s model.Start) error {
	return f.called(ctx, "PrepareStart "+s.UUID)
}

func (f *fake) RepairAttachment(ctx context.Context, id string) (model.Attachment, error) {
	return f.attachment, f.called(ctx, "RepairAttachment "+id)
}

func (f *fake) PreflightAttachment(ctx context.Context, a model.Attachment) ([]model.Check, error) {
	err := f.called(ctx, "PreflightAttachment")
	f.attachment = a
	return []model.Check{{Name: "ports", Verdict: model.Pass}}, err
}

func (f *fake) UpdateNetwork(ctx context.Context, n model.Network, seen int64) (model.Network, error) {
	err := f.called(ctx, fmt.Sprintf("UpdateNetwork %d", seen))
	f.network = n
	return n, err
}

func (f *fake) PutNetwork(ctx context.Context, n model.Network) (model.Network, error) {
	err := f.called(ctx, "PutNetwork")
	f.network = n
	return n, err
}

func (f *fake) DeleteNetwork(ctx context.Context, id string) error {
	return f.called(ctx, "DeleteNetwork "+id)
}

func (f *fake) Network(ctx context.Context, id string) (model.Network, error) {
	return f.network, f.called(ctx, "Network "+id)
}

func (f *fake) Networks(ctx context.Context) ([]model.Network, error) {
	return []model.Network{f.network}, f.called(ctx, "Networks")
}

func (f *fake) PutExport(ctx context.Context, e model.Export) (model.Export, error) {
	err := f.called(ctx, "PutExport")
	f.export = e
	return e, err
}

func (f *fake) DeleteExport(ctx context.Context, id string) error {
	return f.called(ctx, "DeleteExport "+id)
}

func (f *fake) Export(ctx context.Context, id string) (model.Export, error) {
	return f.export, f.called(ctx, "Export "+id)
}

func (f *fake) Exports(ctx context.Context, _ string) ([]model.Export, error) {
	return []model.Export{f.export}, f.called(ctx, "Exports")
}

func (f *fake) PutRule(ctx context.Context, export string, r access.Rule) (access.Rule, error) {
	return r, f.called(ctx, "PutRule "+export)
}

func (f *fake) DeleteRule(ctx context.Context, export, id string) error {
	return f.called(ctx, "DeleteRule "+export+" "+id)
}

func (f *fake) Rule(ctx context.Context, export, id string) (access.Rule, error) {
	return access.Rule{ID: id}, f.called(ctx, "Rule "+export+" "+id)
}

func (f *fake) Rules(ctx context.Context, export string) ([]access.Rule, error) {
	return f.export.Rules, f.called(ctx, "Rules "+export)
}

func (f *fake) RecoverRules(ctx context.Context, export string) (model.Export, error) {
	return f.export, f.called(ctx, "RecoverRules "+export)
}

func (f *fake) Node(ctx context.Context) (model.Node, error) {
	return model.Node{Hostname: "host"}, f.called(ctx, "Node")
}

func (f *fake) Preflight(ctx context.Context) ([]model.Check, error) {
	return []model.Check{{Name: "libvirt", Verdict: model.Pass}}, f.called(ctx, "Preflight")
}

// Watch sends its events and stays, as the agent's does.
func (f *fake) Watch(ctx context.Context, send func(model.Event) error) error {
	for _, e := range f.events {
		if err := send(e); err != nil {
			return err
		}
	}
	if err := f.called(ctx, "Watch"); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// A served agent, and a connection to it.
type served struct {
	*grpc.ClientConn
	server *Server
	socket string
	stop   func() // and wait
	logged *logBuffer
}

// serveFake serves o.Agent on a socket that everybody may connect to.
func serveFake(t *testing.T, o Options) *served {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw-rpc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &served{socket: filepath.Join(dir, "s"), logged: &logBuffer{}}
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o755, s.socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	o.Logger = slog.New(LogHandler(slog.NewJSONHandler(s.logged, nil)))
	s.server = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.server.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(s.stop)
	s.ClientConn = dial(t, s.socket)
	return s
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// logBuffer collects JSON log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) lines(t *testing.T, message string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range bytes.Lines([]byte(l.String())) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if m["msg"] == message {
			all = append(all, m)
		}
	}
	return all
}
