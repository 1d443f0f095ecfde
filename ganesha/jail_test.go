package ganesha

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/process"
)

// TestJail: Ganesha sees its exports and no other tenant's, and has what it
// needs and no more.
func TestJail(t *testing.T) { onBoth(t, testJail) }

func testJail(t *testing.T, system string) {
	s := newSiteOn(t, system)
	other := newSiteOn(t, system)
	e := s.share(1)
	s.start(e)
	root := fmt.Sprintf("/proc/%d/root", s.pid())
	// A mount that comes later reaches it, and an unmount too.
	late := s.share(2)
	s.put(late)
	for _, path := range []string{e.Path, late.Path} {
		if _, err := os.Stat(root + path); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{
		other.o.Exports, s.o.RunDir + "/nfsd", s.o.RunDir + "/bus", "/root", "/home", "/var/lib", "/etc/shadow", "/run/netns", "/dev/kmsg", "/dev/mem", "/sys/kernel",
	} {
		if _, err := os.Stat(root + path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s in the jail: %v, want it missing", path, err)
		}
	}
	for _, path := range []string{"/", "/etc", "/usr", s.o.RunDir + "/conf", s.o.RunDir + "/sock"} {
		if err := unix.Access(root+path, unix.W_OK); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s in the jail can be written: %v", path, err)
		}
	}
	names, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("root of the jail: %v", names)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid()))
	if err != nil {
		t.Fatal(err)
	}
	// chown 0, dac_override 1, dac_read_search 2, fowner 3, fsetid 4, setgid 6, setuid 7
	for _, want := range []string{"CapBnd:\t00000000000000df", "CapPrm:\t00000000000000df", "CapEff:\t00000000000000df", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	bus, err := process.Find(s.g.path(busDir))
	if err != nil || bus == nil {
		t.Fatalf("find bus: %v, %v", bus, err)
	}
	for name, pid := range map[string]int{"ganesha": s.pid(), "bus": bus.Identity().PID} {
		memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(memory)) {
			if strings.HasPrefix(line, "Rss:") || strings.HasPrefix(line, "Pss:") || strings.HasPrefix(line, "Private_Dirty:") {
				t.Log(name, strings.TrimSpace(line))
			}
		}
	}
	status, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", bus.Identity().PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("status of the bus lacks %q:\n%s", want, status)
		}
	}
}
