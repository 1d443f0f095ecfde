package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/wait"
)

// What a process makes in a directory with other ids belongs to those, and its
// capabilities give it nothing over files of others.
func TestIDMap(t *testing.T) {
	s, base := starter(t), t.TempDir()
	run, share := filepath.Join(base, "run"), filepath.Join(base, "share")
	for _, dir := range []string{run, share} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	foreign := filepath.Join(share, "foreign")
	if err := errors.Join(os.WriteFile(foreign, []byte("host\n"), 0o644), os.Chown(share, 100000, 200000)); err != nil {
		t.Fatal(err)
	}
	spec := Spec{
		Dir: run, Path: "/bin/sh", Env: []string{"PATH=/usr/bin:/bin"}, Caps: []string{"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "setgid", "setuid"},
		IDMap: &IDMap{Dir: share, UIDs: []IDRange{{0, 100000, 1000}, {5000, 300000, 1}}, GIDs: []IDRange{{0, 200000, 1000}}},
		Args: []string{"-c", `cd "$1"
			stat -c 'directory %u:%g' .
			stat -c 'foreign %u:%g' foreign
			touch mine; chown 5000:7 mine; chmod 4755 mine; stat -c 'mine %u:%g' mine
			touch nobodys; chown 4000 nobodys 2>/dev/null || echo unmapped
			echo more 2>/dev/null >>foreign || echo write refused
			chmod 4755 foreign 2>/dev/null || echo chmod refused
			chown 0 foreign 2>/dev/null || echo chown refused
			cat foreign`, "sh", share},
	}
	end(t, run)
	p, err := s.Start(t.Context(), spec)
	if errors.Is(err, ErrNoIDMap) {
		needs.Met(t, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	wait.Closed(t, "it ends", p.Done())
	want := "directory 0:0\nforeign 65534:65534\nmine 5000:7\nunmapped\nwrite refused\nchmod refused\nchown refused\nhost"
	if got := strings.TrimSpace(Tail(run, 1000)); got != want {
		t.Errorf("the process says\n%s\nwant\n%s", got, want)
	}
	for name, want := range map[string][2]uint32{"mine": {300000, 200007}, "nobodys": {100000, 200000}, "foreign": {0, 0}} {
		info, err := os.Stat(filepath.Join(share, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", name, st.Uid, st.Gid, want)
		}
	}
	if m := mountInfo(t, os.Getpid()); strings.Contains(m, share) {
		t.Errorf("a mount is left on the host")
	}

	for name, m := range map[string]*IDMap{
		"file system without":  {Dir: "/proc/self", UIDs: []IDRange{{0, 1, 1}}, GIDs: []IDRange{{0, 1, 1}}},
		"overlapping ranges":   {Dir: share, UIDs: []IDRange{{0, 1, 9}, {3, 20, 9}}, GIDs: []IDRange{{0, 1, 1}}},
		"no ranges of one set": {Dir: share, UIDs: []IDRange{{0, 1, 1}}},
	} {
		bad := sleeper(run)
		bad.IDMap = m
		if _, err := s.Start(t.Context(), bad); !errors.Is(err, ErrNoIDMap) {
			t.Errorf("%s: %v, want ErrNoIDMap", name, err)
		}
	}
	for _, dir := range []string{"relative", filepath.Join(base, "absent")} {
		bad := sleeper(run)
		bad.IDMap = &IDMap{Dir: dir, UIDs: []IDRange{{0, 1, 1}}, GIDs: []IDRange{{0, 1, 1}}}
		if _, err := s.Start(t.Context(), bad); err == nil || errors.Is(err, ErrNoIDMap) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
