package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/netns/namespace"
)

// childEnv makes the test binary, started again, do one thing and end.
const childEnv = "CAUSEWAY_NETNS_TEST_CHILD"

func runChild(what string) int {
	var err error
	h, n := sceneOfChild()
	switch what {
	case "ensure":
		fmt.Println("ready")
		err = h.Ensure(background(), n)
	case "remove":
		fmt.Println("ready")
		err = h.Remove(background(), n)
	case "serve":
		err = serve()
	default:
		err = errors.New("no such child")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, what+":", err)
		return 1
	}
	return 0
}

// child prepares to run this binary as a child, in the namespaces of the test.
func child(t *testing.T, what string, wrapper ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(wrapper, self)
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

// What a killed Ensure, or somebody's hand, may leave.
func TestHalfMade(t *testing.T) {
	newBridge(t, "br-blue")
	path := namespace.Path("cw-blue")
	tests := []struct {
		name string
		do   func(t *testing.T)
	}{
		{"empty file", func(t *testing.T) {
			touch(t, path)
		}},
		{"directory is no mount", func(t *testing.T) {
			for unix.Unmount(namespace.Dir, unix.MNT_DETACH) == nil {
			}
			touch(t, path)
		}},
		{"directory is a private mount", func(t *testing.T) {
			for unix.Unmount(namespace.Dir, unix.MNT_DETACH) == nil {
			}
			run(t, "mount", "--bind", namespace.Dir, namespace.Dir)
			run(t, "mount", "--make-private", namespace.Dir)
			touch(t, path)
		}},
		{"empty namespace", func(t *testing.T) {
			ip(t, "netns add cw-blue")
		}},
		{"mounts stacked, the host's own namespace above", func(t *testing.T) {
			ip(t, "netns add cw-blue")
			run(t, "mount", "--bind", "/proc/self/ns/net", path)
		}},
		{"namespace of another kind", func(t *testing.T) {
			touch(t, path)
			run(t, "mount", "--bind", "/proc/self/ns/uts", path)
		}},
		{"unmounted", func(t *testing.T) {
			ensure(t, newHost(), blue())
			run(t, "umount", path)
		}},
		{"link without alias and bridge", func(t *testing.T) {
			ip(t, "netns add cw-blue")
			ip(t, "link add cwblue type veth peer name eth0 netns cw-blue")
		}},
		{"link whose namespace has gone", func(t *testing.T) {
			// The kernel ends a namespace some time after its last user: until
			// then the host's end is there.
			ensure(t, newHost(), blue())
			ip(t, "netns del cw-blue")
		}},
	}
	for _, verb := range []string{"ensure", "remove"} {
		for _, test := range tests {
			t.Run(verb+"/"+test.name, func(t *testing.T) {
				h, n := newHost(), blue()
				if err := os.MkdirAll(namespace.Dir, 0o755); err != nil {
					t.Fatal(err)
				}
				test.do(t)
				state, err := h.Observe(t.Context(), n)
				// The last one's link may have gone by now.
				if err != nil || len(state.Drift) == 0 || !state.Remains && test.name != "link whose namespace has gone" {
					t.Errorf("observe: %+v, %v; want drift, and that something remains", state, err)
				}
				if verb == "ensure" {
					ensure(t, h, n)
					healthy(t, h, n)
					if got := run(t, "findmnt", "-no", "PROPAGATION", namespace.Dir); !strings.Contains(got, "shared") {
						t.Errorf("%s is %s", namespace.Dir, got)
					}
				}
				for range 2 {
					if err := h.Remove(t.Context(), n); err != nil {
						t.Fatal(err)
					}
					nothingLeft(t, h)
					if state, err := h.Observe(t.Context(), n); err != nil || state.Exists || state.Remains {
						t.Errorf("observe after remove: %+v, %v", state, err)
					}
				}
			})
		}
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
}

func nothingLeft(t *testing.T, h *Host) {
	t.Helper()
	namespaces, links, err := h.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(namespaces) != 0 || len(links) != 0 {
		t.Errorf("left: namespaces %q, links %q", namespaces, links)
	}
}

// Whatever instruction a kill hits, the next Ensure finishes and the next
// Remove leaves nothing.
func TestKilledAnywhere(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	for i := range 24 {
		verb := []string{"ensure", "remove"}[i%2]
		if verb == "ensure" {
			if err := h.Remove(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		cmd := child(t, verb)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		// Spread over what a run takes; where exactly does not matter.
		<-time.After(time.Duration(i) * 3 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := h.Ensure(t.Context(), n); err != nil {
			t.Fatalf("after %s was killed: %v", verb, err)
		}
		healthy(t, h, n)
	}
	if err := h.Remove(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h)
}

func TestRemoveWhileAProcessLivesInside(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net="+namespace.Path(n.Namespace), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	old, err := h.Inode(n.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	lives := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	for lives() != old { // until nsenter has entered
		if t.Context().Err() != nil {
			t.Fatal("nsenter did not enter")
		}
	}
	ip(t, "netns del cw-blue")
	if _, err := h.Inode(n.Namespace); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("inode without a namespace: %v", err)
	}
	touch(t, namespace.Path(n.Namespace))
	if _, err := h.Inode(n.Namespace); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("inode of half a namespace: %v", err)
	}
	if err := h.Ensure(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	healthy(t, h, n)
	now, err := h.Inode(n.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if now == old || lives() != old {
		t.Errorf("inode %d, before %d, of the process %d", now, old, lives())
	}
	if err := h.Remove(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, h)
}

func TestSomethingInTheWay(t *testing.T) {
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	elsewhere := filepath.Join(t.TempDir(), "precious")
	touch(t, elsewhere)
	for name, do := range map[string]func() error{
		"directory": func() error { return os.MkdirAll(namespace.Path(n.Namespace)+"/x", 0o755) },
		"link":      func() error { return os.Symlink(elsewhere, namespace.Path(n.Namespace)) },
		"fifo":      func() error { return unix.Mkfifo(namespace.Path(n.Namespace), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.MkdirAll(namespace.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := do(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(namespace.Path(n.Namespace)) })
			if err := h.Ensure(t.Context(), n); err == nil {
				t.Error("Ensure made a namespace of it")
			}
			if b, err := os.ReadFile(elsewhere); err != nil || len(b) != 0 {
				t.Errorf("the link was followed: %q, %v", b, err)
			}
		})
	}
}

func TestListNamesOnlyOurs(t *testing.T) {
	newBridge(t, "cwbridge")
	newBridge(t, "br-blue")
	h, n := newHost(), blue()
	ensure(t, h, n)
	newTenant(t, "other", "br-blue")
	touch(t, namespace.Path("cw-half"))
	t.Cleanup(func() { os.Remove(namespace.Path("cw-half")) })
	namespaces, links, err := h.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cw-blue", "cw-half"}, namespaces); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"cwblue"}, links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

func background() context.Context { return context.Background() }
