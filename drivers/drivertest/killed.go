package drivertest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-project/causeway/drivers"
)

// What a child process that will be killed finds in its environment: the
// backend's directory and the target of its mounts.
const (
	victimDir    = "CAUSEWAY_DRIVERTEST_DIR"
	victimTarget = "CAUSEWAY_DRIVERTEST_TARGET"
)

// kills is how often a child is killed. Each lands elsewhere.
const kills = 12

// killed kills a process that mounts and unmounts without end, and wants the
// next call to finish the work or find it done.
func (b *bench) killed() {
	for i := range kills {
		// Not a wait for anything: it spreads the kills over the calls.
		b.kill(time.Duration(i*i) * 37 * time.Microsecond)
		ro := i%2 == 1
		if err := b.mount(ro); err != nil {
			// The victim's mount may have been the other way round.
			b.must(b.unmount())
			b.must(b.mount(ro))
		}
		b.must(b.mount(ro))
		b.expect(drivers.Mounted{Target: b.target, ReadOnly: ro})
		b.must(b.unmount())
		b.expect()
	}
}

func (b *bench) kill(after time.Duration) {
	// The name of the test that called RunMounter: without our own part.
	name := b.Name()[:strings.LastIndexByte(b.Name(), '/')]
	var pattern []string
	for part := range strings.SplitSeq(name, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(part)+"$")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run="+strings.Join(pattern, "/"), "-test.v=false")
	cmd.Env = append(os.Environ(), victimDir+"="+b.dir, victimTarget+"="+b.target, "TMPDIR="+b.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &lockedBuffer{}
	cmd.Stderr = out
	stdout, err := cmd.StdoutPipe()
	b.must(err)
	b.must(cmd.Start())
	lines := bufio.NewScanner(stdout)
	ready := false
	for !ready && lines.Scan() {
		ready = lines.Text() == "mounting"
		_, _ = fmt.Fprintln(out, lines.Text())
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	err = cmd.Wait()
	var exit *exec.ExitError
	if !ready || !errors.As(err, &exit) || exit.Exited() {
		b.Fatalf("the child did not mount until it was killed: %v\n%s", err, out)
	}
}

// runVictim mounts and unmounts until it is killed.
func runVictim(t *testing.T, b Backend, dir string) {
	target := os.Getenv(victimTarget)
	if target == "" || !filepath.IsAbs(dir) {
		t.Fatalf("a child without a target: %q %q", dir, target)
	}
	fmt.Println("mounting")
	for i := 0; ; i++ {
		r := drivers.MountRequest{Connection: b.Share, Target: target, ReadOnly: i%2 == 0}
		if err := b.Mounter.Mount(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := b.Mounter.Unmount(t.Context(), target); err != nil {
			t.Fatal(err)
		}
	}
}
