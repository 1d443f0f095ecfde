// Package generations tests attachments on two generations of hosts: Debian 12
// with virtiofsd in C, QEMU 7.2 and libvirt 9.0, and Debian 13 with virtiofsd
// in Rust, QEMU 10.0 and libvirt 11.3.
//
// TestHere is for the system that it finds itself on, and TestDebian13 runs it
// once more, with all that it starts, on a root of Debian 13.
package generations

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/golden"
	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

// runVariable makes this program run another one, inside.
const runVariable = "CAUSEWAY_GENERATIONS_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runVariable) != "" {
		os.Exit(lab.Run(os.Args[1:]))
	}
	os.Exit(lab.Main(m))
}

// A world is one system's libvirt, a guest, and the agent.
type world struct {
	pool        *lab.Pool
	libvirt     *lab.Libvirt
	guest       *lab.Guest
	agent       *lab.Agent
	attachments nodev1.AttachmentsClient
	node        nodev1.NodeClient
	tools       sync.Once // brings the guest what it lacks
}

// shared makes the world once. It goes with the namespaces.
var shared = sync.OnceValues(func() (*world, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w := &world{}
	programs, err := lab.Build(ctx, lab.BuildOptions{Race: true})
	if err != nil {
		return nil, err
	}
	if w.pool, err = lab.NewPool(ctx, 256); err != nil {
		return nil, err
	}
	if w.libvirt, err = lab.StartLibvirt(ctx); err != nil {
		return nil, err
	}
	if w.guest, err = w.libvirt.Boot(ctx, lab.GuestOptions{Name: "vm1"}); err != nil {
		return nil, err
	}
	if w.agent, err = lab.NewAgent(lab.AgentOptions{
		Programs: programs, Pools: map[string]string{"default": w.pool.Dir}, Libvirt: w.libvirt.URI,
	}); err != nil {
		return nil, err
	}
	if err := w.agent.Start(ctx); err != nil {
		return nil, err
	}
	conn, err := w.agent.Connect()
	if err != nil {
		return nil, err
	}
	w.attachments, w.node = nodev1.NewAttachmentsClient(conn), nodev1.NewNodeClient(conn)
	return w, nil
})

// A seat is the world as one test uses it.
type seat struct {
	*testing.T
	*world
}

func sit(t *testing.T) seat {
	t.Helper()
	w, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	s := seat{t, w}
	w.tools.Do(func() { s.must(s.probe(limited(t, time.Minute))) })
	return s
}

func (s seat) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// limited bounds a whole test, so that what hangs is told by name.
func limited(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("the test's time is over"))
	t.Cleanup(cancel)
	return ctx
}

// in says what runs in the guest, which must succeed.
func (s seat) in(ctx context.Context, script string) string {
	s.Helper()
	out, err := s.guest.Shell(ctx, script)
	s.must(err)
	return strings.TrimSpace(out)
}

// attach a share, and detach it when the test ends.
func (s seat) attach(ctx context.Context, a *nodev1.Attachment) *nodev1.Attachment {
	s.Helper()
	s.must(s.try(ctx, a))
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		// The guest may yet hold what a program of its has just let go.
		if err := wait.For(ctx, func() (bool, error) {
			_, err := s.attachments.Detach(ctx, &nodev1.DetachRequest{Id: a.GetId()})
			return err == nil, err
		}); err != nil {
			s.Error(err)
		}
	})
	r, err := s.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: a.GetId()})
	s.must(err)
	return r.GetAttachment()
}

// try to attach a share, under a tag that is the id.
func (s seat) try(ctx context.Context, a *nodev1.Attachment) error {
	a.Instance, a.Tag = s.guest.Name, a.GetId()
	_, err := s.attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a})
	return err
}

// reasonOf a refusal; empty where there is none.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i.GetReason()
		}
	}
	return ""
}

// share makes a directory of the pool, in which everybody may write.
func (s seat) share(name string) (*nodev1.Connection, string) {
	s.Helper()
	dir := s.pool.Dir + "/" + name
	s.must(errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o777)))
	return &nodev1.Connection{BackendKind: "local", Source: name}, dir
}

// debian13 says where its root is, and skips the test where there is none, but
// never on CI.
func debian13(t *testing.T) string {
	t.Helper()
	root, err := lab.Debian13()
	needs.Met(t, err)
	return root
}

// newer runs this program on Debian 13, and its tests must pass there.
func newer(t *testing.T, env []string, arguments ...string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := lab.On(limited(t, 25*time.Minute), debian13(t), append([]string{self}, arguments...)...)
	kernel, _, err := lab.GuestImage()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(append(cmd.Env, "CAUSEWAY_GUEST_DIR="+filepath.Dir(kernel)), env...)
	out, err := cmd.CombinedOutput()
	// Its lines would be taken for results of this program's tests.
	text := regexp.MustCompile(`(?m)^(=== |\s*--- |PASS$|FAIL$)`).ReplaceAllString(string(out), "| $1")
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("%v:\n%s", err, text)
	} else if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS") || strings.Contains(string(out), "--- SKIP") {
		t.Fatalf("not all tests ran:\n%s", text)
	}
	if testing.Verbose() {
		t.Log(text)
	}
}

func TestDebian13(t *testing.T) {
	arguments := []string{"-test.v", "-test.run=^TestHere$"}
	if golden.Updating() {
		arguments = append(arguments, "-update")
	}
	newer(t, nil, arguments...)
}

// TestPackagesOnDebian13 runs what other packages test of libvirt and
// virtiofsd, as far as it may be otherwise there.
func TestPackagesOnDebian13(t *testing.T) {
	for _, tt := range []struct{ pkg, run string }{
		{"virtiofs/virtiofsd", "Daemon"},
		{"virtiofs", "AttachMountDetach|FreshDaemon|DaemonDies|Suspended|Refusals|TagTwice|Libvirts|Everything|IDs|ReadOnly|Settings"},
	} {
		t.Run(tt.pkg, func(t *testing.T) {
			debian13(t)
			repo, err := lab.Repo()
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(repo, tt.pkg)
			program := filepath.Join(t.TempDir(), "test")
			build := exec.CommandContext(limited(t, 5*time.Minute), "go", "test", "-c", "-race", "-o", program, ".")
			build.Dir = dir
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Chdir(dir)
			newer(t, []string{runVariable + "=1", "CI=true"}, program, "-test.v", "-test.run="+tt.run)
		})
	}
}
