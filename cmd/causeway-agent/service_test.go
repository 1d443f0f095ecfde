package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/rpc"
)

// fakeCore is in sync and alive when it is told so.
type fakeCore struct {
	rpc.Agent // nil: not called

	mu     sync.Mutex
	inSync bool
	pulse  time.Time
	node   model.Node
	fails  chan error // ends Run
}

func newFakeCore() *fakeCore { return &fakeCore{fails: make(chan error, 1), pulse: time.Now()} }

func (f *fakeCore) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.fails:
		return err
	}
}

func (f *fakeCore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeCore) Pulse() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pulse
}

func (f *fakeCore) InSync() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inSync
}

func (f *fakeCore) Node(context.Context) (model.Node, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.node
	n.InSync = f.inSync
	return n, nil
}

func (*fakeCore) Collector() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "causeway_test"}, func() float64 { return 42 })
}

// systemd listens where NOTIFY_SOCKET says.
type systemd struct {
	t    *testing.T
	conn *net.UnixConn
}

func newSystemd(t *testing.T) systemd {
	t.Helper()
	path := filepath.Join(socketDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return systemd{t, conn}
}

// hear returns the next assignments, within a generous time.
func (s systemd) hear() string {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := s.conn.Read(b)
	if err != nil {
		s.t.Fatalf("systemd hears nothing: %v", err)
	}
	return string(b[:n])
}

// until hears want, and returns what came before it.
func (s systemd) until(want string) []string {
	s.t.Helper()
	var before []string
	for {
		got := s.hear()
		if got == want {
			return before
		}
		before = append(before, got)
		if len(before) > 1000 {
			s.t.Fatalf("systemd never hears %q, but %q", want, before[:20])
		}
	}
}

// start runs a service around f; stop ends it and returns its error.
func start(t *testing.T, f *fakeCore, watchdog time.Duration) (s *service, stop func() error) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	grpcListener, err := net.Listen("unix", filepath.Join(socketDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	httpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = &service{core: f, log: log, grpc: grpcListener, http: httpListener, watchdog: watchdog,
		rpc: rpc.New(rpc.Options{Agent: f, Logger: log}), notify: newNotifier()}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

func TestSystemdHearsHowTheAgentIs(t *testing.T) {
	sd := newSystemd(t)
	f := newFakeCore()
	_, stop := start(t, f, 40*time.Millisecond)
	if _, there := os.LookupEnv("NOTIFY_SOCKET"); there {
		t.Error("children would inherit NOTIFY_SOCKET")
	}
	if got := sd.hear(); !strings.HasPrefix(got, "STATUS=looks") {
		t.Errorf("first: %q", got)
	}
	if got := sd.hear(); got != "EXTEND_TIMEOUT_USEC=30000000" {
		t.Errorf("second: %q", got)
	}
	f.set(func() { f.inSync, f.pulse = true, time.Now().Add(time.Hour) })
	sd.until("READY=1")
	sd.until("STATUS=in sync")
	sd.until("WATCHDOG=1")
	sd.until("WATCHDOG=1")

	f.set(func() {
		f.node.Subsystems = []model.Subsystem{{Name: "local", Verdict: model.Pass}, {Name: "libvirt", Verdict: model.Warn, Message: "away\nREADY=0"}}
	})
	sd.until("STATUS=in sync; libvirt: away READY=0")

	// Without a pulse no word for the watchdog. A change of status shows that
	// the reporter itself goes on.
	f.set(func() { f.pulse = time.Time{} })
	f.set(func() { f.node.Damaged = []string{"x"} })
	sd.until("STATUS=in sync; 1 damaged ledger files; libvirt: away READY=0")
	f.set(func() { f.node.Damaged = nil })
	for _, said := range sd.until("STATUS=in sync; libvirt: away READY=0") {
		if said == "WATCHDOG=1" {
			t.Error("the watchdog is fed without a pulse")
		}
	}
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	sd.until("STOPPING=1\nSTATUS=stopping; the data path goes on")
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := newNotifier().send("READY=1"); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	if err := newNotifier().send("READY=1"); err == nil {
		t.Error("nobody listened")
	}
}

func TestWatchdogInterval(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", "")
	if err := os.Unsetenv("WATCHDOG_PID"); err != nil {
		t.Fatal(err)
	}
	if d, err := watchdog(); d != 30*time.Second || err != nil {
		t.Errorf("interval %s, %v", d, err)
	}
	if _, there := os.LookupEnv("WATCHDOG_USEC"); there {
		t.Error("children would inherit WATCHDOG_USEC")
	}
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestHTTP(t *testing.T) {
	f := newFakeCore()
	s := &service{core: f, log: slog.New(slog.DiscardHandler)}
	server := httptest.NewServer(s.handler())
	defer server.Close()

	code, body := get(t, server.URL+"/metrics")
	for _, want := range []string{"causeway_test 42", "go_goroutines", "process_resident_memory_bytes", "go_build_info"} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("metrics: %d, without %s", code, want)
		}
	}
	for _, c := range []struct {
		about  string
		change func()
		alive  int
		ready  int
		want   readiness
	}{
		{"at first", func() { f.pulse = time.Time{} }, 200, 503, readiness{Subsystems: []subsystemStatus{}}},
		{"in sync", func() { f.inSync, f.pulse = true, time.Now().Add(time.Hour) }, 200, 200, readiness{Ready: true, InSync: true, Subsystems: []subsystemStatus{}}},
		{"with a warning", func() { f.node.Subsystems = []model.Subsystem{{Name: "libvirt", Verdict: model.Warn, Message: "away"}} },
			200, 200, readiness{Ready: true, InSync: true, Subsystems: []subsystemStatus{{"libvirt", model.Warn, "away"}}}},
		{"with a failure", func() { f.node.Subsystems[0].Verdict = model.Fail },
			200, 503, readiness{InSync: true, Subsystems: []subsystemStatus{{"libvirt", model.Fail, "away"}}}},
		{"without a pulse", func() { f.pulse, f.node.Subsystems = time.Now().Add(-time.Hour), nil },
			503, 200, readiness{Ready: true, InSync: true, Subsystems: []subsystemStatus{}}},
	} {
		f.set(c.change)
		if code, body := get(t, server.URL+"/healthz"); code != c.alive {
			t.Errorf("%s: healthz %d %q", c.about, code, body)
		}
		code, body := get(t, server.URL+"/readyz")
		var got readiness
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: readyz %q: %v", c.about, body, err)
		}
		if code != c.ready || got.Ready != c.want.Ready || got.InSync != c.want.InSync || len(got.Subsystems) != len(c.want.Subsystems) {
			t.Errorf("%s: readyz %d %+v, want %d %+v", c.about, code, got, c.ready, c.want)
		}
		for i, sub := range got.Subsystems {
			if sub != c.want.Subsystems[i] {
				t.Errorf("%s: subsystem %+v, want %+v", c.about, sub, c.want.Subsystems[i])
			}
		}
	}
	if code, _ := get(t, server.URL+"/"); code != http.StatusNotFound {
		t.Errorf("other paths: %d", code)
	}
	resp, err := http.Post(server.URL+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestHealthServesWhenInSync(t *testing.T) {
	f := newFakeCore()
	s, stop := start(t, f, 0)
	conn, err := grpc.NewClient("unix://"+s.grpc.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []healthv1.HealthCheckResponse_ServingStatus{
		healthv1.HealthCheckResponse_NOT_SERVING, healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING,
	} {
		r, err := watch.Recv()
		if err != nil || r.GetStatus() != want {
			t.Fatalf("health %d: %v, %v, want %s", i, r, err, want)
		}
		switch i {
		case 0:
			f.set(func() { f.inSync = true })
		case 1:
			go func() { _ = stop() }()
		}
	}
}

func TestCoreThatFailsEndsTheService(t *testing.T) {
	for _, cause := range []error{errors.New("ledger is on fire"), nil} {
		f := newFakeCore()
		s := &service{core: f, log: slog.New(slog.DiscardHandler)}
		var err error
		if s.grpc, err = net.Listen("unix", filepath.Join(socketDir(t), "s")); err != nil {
			t.Fatal(err)
		}
		s.rpc = rpc.New(rpc.Options{Agent: f, Logger: s.log})
		f.fails <- cause
		err = s.run(t.Context())
		if err == nil || cause != nil && !errors.Is(err, cause) {
			t.Errorf("run ended with %v after %v", err, cause)
		}
	}
}
