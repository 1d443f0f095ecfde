package usage

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// TestOf: what counts is in a child, as with a virtiofsd in its sandbox.
func TestOf(t *testing.T) {
	c := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -n 50; sh -c 'for i in 3 4 5 6 7 8 9; do eval "exec $i</dev/null"; done; echo; exec sleep 60' & wait`)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := os.OpenFile("/dev/null", os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	c.Stdin, c.Stdout = in, write
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	if _, err := read.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p, err := Of(c.Process.Pid)
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	_ = c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if p.Files < 10 || p.MaxFiles != 50 || p.Memory == 0 {
		t.Errorf("usage is %+v, want 10 files and more of 50", p)
	}
	if _, err := Of(c.Process.Pid); !errors.Is(err, ErrEnded) {
		t.Errorf("of one that has ended: %v", err)
	}
}

func TestCountFiles(t *testing.T) {
	before, err := countFiles("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
	}
	after, err := countFiles("/proc/self/fd")
	if err != nil || after-before < 100 || after-before > 104 {
		t.Errorf("%d files, then %d, %v: want 100 more", before, after, err)
	}
	// Where the kernel does not say it in the size, as before Linux 6.2.
	dir := t.TempDir()
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := list(dir); n != 10 || err != nil {
		t.Errorf("%d files, %v", n, err)
	}
}

func TestReadGroup(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		v     version
		want  Group
	}{
		"version 2": {map[string]string{"memory.current": "1000\n", "memory.max": "2000\n", "memory.stat": "anon 1\nactive_file 100\ninactive_file 200\nslab_reclaimable 50\n"}, version2, Group{650, 2000}},
		"no limit":  {map[string]string{"memory.current": "1000\n", "memory.max": "max\n"}, version2, Group{1000, 0}},
		"version 1": {map[string]string{"memory.usage_in_bytes": "1000\n", "memory.limit_in_bytes": "9223372036854771712\n", "memory.stat": "active_file 1\ntotal_active_file 400\ntotal_inactive_file 700\n"}, version1, Group{0, 0}},
	} {
		dir := t.TempDir()
		for file, text := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, ok := readGroup(dir, c.v); !ok || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, ok, c.want)
		}
	}
	if g := groupOf("0::/\n1:name=systemd:/x\nnonsense\n"); g != (Group{}) {
		t.Errorf("of the root: %+v", g)
	}
}

func TestOfHost(t *testing.T) {
	h, err := OfHost()
	if err != nil || h.Own == 0 || h.Each == 0 || h.All == 0 || h.Open == 0 || h.Open > h.All {
		t.Errorf("%+v, %v", h, err)
	}
}

func BenchmarkOf(b *testing.B) {
	for b.Loop() {
		if _, err := Of(os.Getpid()); err != nil {
			b.Fatal(err)
		}
	}
}
