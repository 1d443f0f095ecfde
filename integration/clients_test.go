package integration

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/programs"
)

// Debian's packages for Python belong to Debian's Python, whatever comes first
// in PATH.
const python = "/usr/bin/python3"

// thePython skips the test where Python's packages are missing, but never on CI.
func thePython(t *testing.T, modules string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), python, "-c", "import "+modules).CombinedOutput()
	if err != nil {
		needs.Met(t, fmt.Errorf("%w: %s", err, out))
	}
}

// pythonCommand treats warnings as errors, and leaves no caches in the tree.
func pythonCommand(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, python, append([]string{"-W", "error"}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+path, "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

// TestPythonClient runs the Python client's own tests, from the tree and from
// where pyproject.toml installs it.
func TestPythonClient(t *testing.T) {
	thePython(t, "grpc, google.protobuf, setuptools, wheel")
	ctx := limited(t, 6*time.Minute)
	tree, err := filepath.Abs("../api/python")
	if err != nil {
		t.Fatal(err)
	}
	// setuptools works in the tree that it is given.
	work := t.TempDir()
	if err := os.CopyFS(work, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(ctx, python, "-c",
		"from setuptools import build_meta; build_meta.build_wheel('.')")
	build.Dir = work
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the wheel: %v\n%s", err, out)
	}
	wheels, err := filepath.Glob(filepath.Join(work, "*.whl"))
	if err != nil || len(wheels) != 1 {
		t.Fatalf("wheels %v, %v", wheels, err)
	}
	for _, path := range []string{tree, wheels[0]} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cmd := pythonCommand(ctx, path, "-m", "unittest", "discover", "-s", filepath.Join(tree, "tests"))
			cmd.Dir = t.TempDir() // the current directory is where Python looks first
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			where, err := pythonCommand(ctx, path, "-c", "import causeway_node; print(causeway_node.__file__)").Output()
			if err != nil || !strings.HasPrefix(string(where), path+"/") {
				t.Errorf("causeway_node is at %s, %v", where, err)
			}
		})
	}
}

// TestPythonClientUnderEventlet: with eventlet's threads gRPC hangs in some calls
// and stops the whole service in the others, which is refused.
func TestPythonClientUnderEventlet(t *testing.T) {
	thePython(t, "grpc, google.protobuf, eventlet")
	const program = "import eventlet; eventlet.monkey_patch(); import causeway_node; causeway_node.Client()"
	out, err := exec.CommandContext(limited(t, time.Minute), python, "-c", "import sys; sys.path.insert(0, '../api/python'); sys.dont_write_bytecode = True; "+program).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "RuntimeError: eventlet has patched threading") {
		t.Errorf("%v\n%s", err, out)
	}
}

// An example is a program of docs/nova.md that runs.
type example struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	input io.Closer
	errs  *bytes.Buffer
}

func runExample(t *testing.T, cmd *exec.Cmd) *example {
	t.Helper()
	e := &example{cmd: cmd, errs: &bytes.Buffer{}}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.input, e.lines, cmd.Stderr = input, bufio.NewScanner(output), e.errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return e
}

// upTo returns what it printed until it has printed all of these lines, in
// whatever order: states come from another thread than answers.
func (e *example) upTo(t *testing.T, all ...string) (printed []string) {
	t.Helper()
	for e.lines.Scan() {
		printed = append(printed, e.lines.Text())
		if all = slices.DeleteFunc(all, func(line string) bool { return line == e.lines.Text() }); len(all) == 0 {
			return printed
		}
	}
	_ = e.cmd.Wait()
	t.Fatalf("it printed %q, and no %q: %s", printed, all, e.errs)
	return nil
}

// TestExamples: both examples of docs/nova.md take a share through its life in
// a running guest, also when they are killed in between.
func TestExamples(t *testing.T) {
	w, ctx := theWorld(t), limited(t, 6*time.Minute)
	thePython(t, "grpc, google.protobuf")
	built := t.TempDir()
	if err := programs.Build(ctx, programs.Options{Dir: built, Packages: []string{"api/node/client/example"}, Race: true}); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(built, "example")
	dir := w.share(t, "docs")
	n := w.started(ctx, t, lab.AgentOptions{})
	for _, test := range []struct {
		name string
		cmd  func(args ...string) *exec.Cmd
	}{
		{"go", func(args ...string) *exec.Cmd {
			cmd := exec.CommandContext(ctx, program, args...)
			cmd.Env = os.Environ()
			return cmd
		}},
		{"python", func(args ...string) *exec.Cmd {
			return pythonCommand(ctx, "../api/python", append([]string{"../api/python/example.py"}, args...)...)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(instance string) *example {
				cmd := test.cmd("--id", test.name, "--instance", instance, "--source", "local:docs", "--tag", test.name, "--mount-at", "/mnt/"+test.name)
				cmd.Env = append(cmd.Env, "CAUSEWAY_SOCKET=unix://"+n.Socket)
				return runExample(t, cmd)
			}
			n := *n
			n.t = t
			hostname, err := os.Hostname()
			n.must(err)
			first := run("vm1")
			first.upTo(t, "node "+hostname, "attaching", "active", "attached mounted")
			n.in(ctx, "echo from the guest >/mnt/"+test.name+"/"+test.name)
			if data, err := os.ReadFile(filepath.Join(dir, test.name)); err != nil || string(data) != "from the guest\n" {
				t.Errorf("the guest's file reads %q, %v", data, err)
			}
			n.must(first.cmd.Process.Kill())

			second := run("vm1")
			second.upTo(t, "attached mounted")
			n.in(ctx, "cat /mnt/"+test.name+"/"+test.name)
			n.must(second.input.Close())
			second.upTo(t, "detaching", "gone")
			if err := second.cmd.Wait(); err != nil {
				t.Errorf("%v: %s", err, second.errs)
			}

			none := run("vm-none")
			for none.lines.Scan() {
			}
			var exit *exec.ExitError
			if err := none.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(none.errs.String(), "instance_not_found: ") {
				t.Errorf("with an unknown instance: %v, %s", err, none.errs)
			}
			if out, err := test.cmd("--help").CombinedOutput(); err != nil || !strings.Contains(string(out), "-instance") {
				t.Errorf("help: %v\n%s", err, out)
			}
		})
	}
	n.finish(ctx)
}
