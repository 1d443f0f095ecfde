package rpc

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/needs"
)

const (
	nobody = 65534
	group  = 4242

	childSocket = "CAUSEWAY_RPC_TEST_SOCKET"
)

// TestChild is the other user: it calls at the socket that it is told and
// prints what it gets.
func TestChild(t *testing.T) {
	socket := os.Getenv(childSocket)
	if socket == "" {
		return // not a test of its own
	}
	conn := dial(t, socket)
	_, read := nodev1.NewNodeClient(conn).Get(t.Context(), &nodev1.GetNodeRequest{})
	_, write := nodev1.NewExportsClient(conn).Delete(t.Context(), &nodev1.DeleteExportRequest{Id: "x"})
	_, start := nodev1.NewAttachmentsClient(conn).PrepareStart(t.Context(), &nodev1.PrepareStartRequest{Instance: "vm1", InstanceUuid: "u"})
	fmt.Printf("uid %d: read %s %s, write %s %s, start %s %s\n", os.Getuid(), status.Code(read), info(read).GetReason(),
		status.Code(write), info(write).GetReason(), status.Code(start), info(start).GetReason())
}

func TestCallers(t *testing.T) {
	needs.Root(t) // to call as another user
	program := sharedCopy(t)
	const (
		denied = "PermissionDenied caller_not_allowed"

		in   = "read OK , write OK , start " + denied // which is for libvirt's hook
		root = "read OK , write OK , start OK "
		out  = "read " + denied + ", write " + denied + ", start " + denied
	)
	for name, c := range map[string]struct {
		options Options
		who     syscall.Credential
		want    string
	}{
		"stranger":            {Options{}, syscall.Credential{Uid: nobody, Gid: nobody}, out},
		"allowed user":        {Options{AllowUIDs: []uint32{nobody}}, syscall.Credential{Uid: nobody, Gid: nobody}, in},
		"another user":        {Options{AllowUIDs: []uint32{nobody - 1}}, syscall.Credential{Uid: nobody, Gid: nobody}, out},
		"allowed group":       {Options{AllowGIDs: []uint32{group}}, syscall.Credential{Uid: nobody, Gid: group}, in},
		"supplementary group": {Options{AllowGIDs: []uint32{group}}, syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, group}}, in},
		"many groups":         {Options{AllowGIDs: []uint32{group}}, syscall.Credential{Uid: nobody, Gid: nobody, Groups: manyGroups()}, in},
		"another group":       {Options{AllowGIDs: []uint32{group}}, syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7}}, out},
		"root":                {Options{}, syscall.Credential{}, root},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{}
			c.options.Agent = f
			s := serveFake(t, c.options)
			cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestChild$")
			cmd.Env = []string{childSocket + "=" + s.socket, "GORACE=atexit_sleep_ms=0"}
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c.who}
			printed, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("child: %v\n%s", err, printed)
			}
			if !strings.Contains(string(printed), fmt.Sprintf("uid %d: %s", c.who.Uid, c.want)) {
				t.Errorf("child printed %q, want %q", printed, c.want)
			}
			s.stop()
			if c.want == out && len(f.calls) > 0 {
				t.Errorf("the agent was called: %q", f.calls)
			}
			// What was refused is audited, reading too.
			lines := s.logged.lines(t, "audit")
			for _, l := range lines {
				if l["uid"] != float64(c.who.Uid) || l["pid"] != float64(cmd.Process.Pid) {
					t.Errorf("audit line %v, want uid %d, pid %d", l, c.who.Uid, cmd.Process.Pid)
				}
			}
			if want := map[string]int{in: 2, root: 2, out: 3}[c.want]; len(lines) != want {
				t.Errorf("%d audit lines, want %d:\n%s", len(lines), want, s.logged)
			}
		})
	}
}

func TestDeniedSaysNoMoreThanNeeded(t *testing.T) {
	if (allowed{uids: []uint32{0}}).admits(Caller{UID: 1, GIDs: []uint32{0}}) {
		t.Error("group root is not user root")
	}
	s := New(Options{Agent: &fake{}})
	_, err := s.answer(t.Context(), nil, nil) // no peer: the call must not be made
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("without peer credentials: %v", err)
	}
}

// manyGroups are more than the first question for them has room for.
func manyGroups() []uint32 {
	var gs []uint32
	for g := range uint32(200) {
		gs = append(gs, 10000+g)
	}
	return append(gs, group)
}

// sharedCopy puts this test's program where every user may run it.
func sharedCopy(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cw-rpc-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = from.Close() }()
	to, err := os.OpenFile(filepath.Join(dir, "child"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}
