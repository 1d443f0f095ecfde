package ganesha

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nextEpoch gives each start of a gateway's Ganesha an epoch of its own, and
// notes it. By itself Ganesha takes the second of its start, and its client
// ids, sessions and write verifiers are made of the epoch and counters that
// begin at zero. So two starts within one second, or around a clock that was
// set back, would give one client the session that another still believes to
// have. A crash of the host may cut the file short: the clock has then gone on
// by more than the starts of a moment.
func nextEpoch(stateDir string, now time.Time) (uint32, error) {
	file := filepath.Join(stateDir, "epoch")
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	epoch := uint32(now.Unix())
	// What is no number, or the last one there is, was not written here.
	if last, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32); err == nil && last < math.MaxUint32 {
		epoch = max(epoch, uint32(last)+1)
	}
	return epoch, replace(file, fmt.Sprintln(epoch))
}
