package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// AgentOptions of an Agent.
type AgentOptions struct {
	Programs *Programs         // required
	Pools    map[string]string // required: of the local driver; an unnamed source is in "default"
	Libvirt  string            // URI; empty: the agent does without
	Name     string            // tells several agents in one program apart
	Lease    time.Duration     // of gateways; 10 s by default
	Grace    time.Duration     // of gateways; 15 s by default
	Resync   time.Duration     // 1 min by default
	LogLevel string            // DEBUG by default
}

// An Agent is one causeway-agent with directories of its own. Its daemons
// outlive it, as they do everywhere.
type Agent struct {
	StateDir string // on the disk
	RunDir   string // below /run, and short
	Socket   string // of the node API
	HTTP     string // base URL of metrics and health
	Config   string // path of the configuration
	Programs *Programs

	address string // of HTTP
	log     string
	d       *daemon
}

// agentStop is how long an agent may take to end by SIGTERM.
const agentStop = 15 * time.Second

// NewAgent makes the directories and writes the configuration.
func NewAgent(o AgentOptions) (*Agent, error) {
	home, err := TempDir()
	if err != nil {
		return nil, err
	}
	run := "/run/causeway"
	if o.Name != "" {
		run += "-" + o.Name
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		StateDir: filepath.Join(home, "state"),
		RunDir:   run,
		Socket:   filepath.Join(run, "agent.sock"),
		HTTP:     "http://" + address,
		Config:   filepath.Join(home, "agent.yaml"),
		Programs: o.Programs,
		address:  address,
		log:      filepath.Join(home, "agent.log"),
	}
	if err := errors.Join(os.MkdirAll(a.StateDir, 0o700), os.MkdirAll(a.RunDir, 0o755)); err != nil {
		return nil, err
	}
	return a, a.Configure(o)
}

// Configure writes the configuration of the agent's next start. Programs and
// Name stay what NewAgent was told.
func (a *Agent) Configure(o AgentOptions) error {
	o.Programs = a.Programs
	text, err := yaml.Marshal(a.config(o, a.address))
	if err != nil {
		return err
	}
	return os.WriteFile(a.Config, text, 0o600)
}

func (a *Agent) config(o AgentOptions, address string) map[string]any {
	c := map[string]any{
		"state_dir": a.StateDir,
		"run_dir":   a.RunDir,
		"socket":    map[string]any{"path": a.Socket, "group": "root"},
		"http":      map[string]any{"address": address},
		"log":       map[string]any{"level": or(o.LogLevel, "DEBUG"), "format": "text"},
		"libvirt":   map[string]any{"enabled": o.Libvirt != "", "uri": or(o.Libvirt, "qemu:///system")},
		"launcher":  o.Programs.Launch,
		"local":     map[string]any{"pools": o.Pools},
		"gateway":   map[string]any{"lease": or(o.Lease, 10*time.Second).String(), "grace": or(o.Grace, 15*time.Second).String()},
		"resync":    or(o.Resync, time.Minute).String(),
	}
	return c
}

func or[T comparable](v, otherwise T) T {
	if v == *new(T) {
		return otherwise
	}
	return v
}

// freeAddress on loopback. Nobody else takes it: the network is this program's.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// Start starts the agent, and returns when it is in sync.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.Launch(""); err != nil {
		return err
	}
	return a.WaitInSync(ctx)
}

// Launch starts the agent and waits for nothing. crashAt is the crash point at
// which it kills itself, if it was built so; empty is none.
func (a *Agent) Launch(crashAt string) (err error) {
	if a.Running() {
		return errors.New("start the agent: it runs already")
	}
	a.d, err = startDaemon(a.log, []string{"CAUSEWAY_CRASH_AT=" + crashAt}, a.Programs.Agent, "-config", a.Config)
	return err
}

// WaitInSync returns when the agent has read its ledger, observed the host and
// made the two agree so far that it takes calls. It fails at once if the agent
// ends.
func (a *Agent) WaitInSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return a.d.until(ctx, func() (bool, error) {
		var ready struct {
			InSync bool `json:"in_sync"`
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.HTTP+"/readyz", nil)
		if err != nil {
			return false, err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, err
		}
		err = errors.Join(json.NewDecoder(answer.Body).Decode(&ready), answer.Body.Close())
		if err != nil || !ready.InSync {
			return false, errors.Join(err, fmt.Errorf("/readyz: %s, in_sync=%v", answer.Status, ready.InSync))
		}
		_, err = os.Stat(a.Socket)
		return err == nil, err
	})
}

// Running is false after the agent has ended, for whatever reason.
func (a *Agent) Running() bool { return a.d != nil && a.d.running() }

// PID of the agent that was started last; 0 before the first.
func (a *Agent) PID() int {
	if a.d == nil {
		return 0
	}
	return a.d.cmd.Process.Pid
}

// Kill ends the agent with SIGKILL, and returns when it has ended. One that
// has ended already is success.
func (a *Agent) Kill() error {
	if a.d == nil {
		return nil
	}
	return a.d.kill()
}

// WaitKilled returns when the agent has killed itself at a crash point. That it
// ended otherwise, or not at all before ctx does, is an error.
func (a *Agent) WaitKilled(ctx context.Context) error {
	select {
	case <-a.d.done:
	case <-ctx.Done():
		return fmt.Errorf("agent was not killed: %w; its log ends:\n%s", context.Cause(ctx), a.Log())
	}
	status, ok := a.d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		return fmt.Errorf("agent ended with %s, want killed; its log ends:\n%s", a.d.cmd.ProcessState, a.Log())
	}
	return nil
}

// Stop ends the agent by SIGTERM. That it fails then, takes over 15 s or has
// raced is an error.
func (a *Agent) Stop() error {
	if a.d == nil {
		return nil
	}
	if err := a.d.stop(agentStop); err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, a.Log())
	}
	if a.d.err != nil {
		return fmt.Errorf("agent ended with %w; its log ends:\n%s", a.d.err, a.Log())
	}
	if report := raced(a.log); report != "" {
		return fmt.Errorf("the agent has data races, the first of them:\n%s", report)
	}
	return nil
}

// Restart stops the agent and starts it again.
func (a *Agent) Restart(ctx context.Context) error {
	if err := a.Stop(); err != nil {
		return err
	}
	return a.Start(ctx)
}

// Log returns the end of all that the agent logged, over its restarts.
func (a *Agent) Log() string { return tail(a.log) }

// LogFile is the path of the whole log.
func (a *Agent) LogFile() string { return a.log }

// Close ends the agent if it runs, and removes its directories. Mounts below
// the run directory are an error, and nothing is removed then: it would be
// what the shares hold.
func (a *Agent) Close() error {
	if a.Running() {
		if err := a.Stop(); err != nil {
			return err
		}
	}
	left, err := mounts(HostScope{RunDir: a.RunDir})
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("the agent left %s", strings.Join(left, ", "))
	}
	return errors.Join(os.RemoveAll(a.RunDir), os.RemoveAll(filepath.Dir(a.Config)))
}

// Connect returns a connection to the node API. It survives restarts of the
// agent.
func (a *Agent) Connect() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+a.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// A Result of a command.
type Result struct {
	Stdout string
	Stderr string
	Code   int // exit code
}

// CLI runs the command line against this agent. Only that it could not be run
// is an error.
func (a *Agent) CLI(ctx context.Context, args ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, a.Programs.CLI, args...)
	cmd.Env = append(os.Environ(), "CAUSEWAY_SOCKET="+a.Socket)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("causeway %q: %w: %s", args, err, stderr.String())
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}, nil
}

// Must runs the command line, and what it complained of is an error.
func (a *Agent) Must(ctx context.Context, args ...string) (stdout string, err error) {
	r, err := a.CLI(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("causeway %q: exit code %d: %s", args, r.Code, r.Stderr)
	}
	return r.Stdout, err
}
