//go:build crashpoints

package crashpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// counts how often each point was passed.
var counts struct {
	sync.Mutex
	passed map[Point]int
}

// Hit kills this process, with no chance to clean up, if p is armed:
// CAUSEWAY_CRASH_AT=POINT at its first passing, POINT#3 at its third. Where
// CAUSEWAY_CRASH_LOG names a file, every passing is a line of it.
func Hit(p Point) {
	log(p)
	armed, nth, counted := strings.Cut(os.Getenv("CAUSEWAY_CRASH_AT"), "#")
	if string(p) != armed {
		return
	}
	counts.Lock()
	if counts.passed == nil {
		counts.passed = map[Point]int{}
	}
	counts.passed[p]++
	passed := counts.passed[p]
	counts.Unlock()
	if counted && strconv.Itoa(passed) != nth {
		return
	}
	if os.Getpid() == 1 {
		// Process 1 of a namespace cannot kill itself. Seen from outside,
		// and by files and locks, this is the same.
		syscall.Exit(128 + int(syscall.SIGKILL))
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way; run no further instruction of ours
}

func log(p Point) {
	path := os.Getenv("CAUSEWAY_CRASH_LOG")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(string(p) + "\n")
	_ = f.Close()
}
