package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-project/causeway/virtiofs/vhostuser"
)

// ReportFile is the name, in the run directory, of what a keeper says of its
// virtiofsd. It is replaced whole; a keeper that serves has written one.
const ReportFile = "keeper.json"

// A Report says how a virtiofsd is.
type Report struct {
	Keeper int  `json:"keeper"` // the keeper's pid: another one's report is an old one
	PID    int  `json:"pid"`    // of the virtiofsd, the process that the keeper started
	Ended  *End `json:"ended,omitempty"`
}

// A Cause is why a virtiofsd ended.
type Cause string

// The causes.
const (
	Killed   Cause = "killed"   // by a signal
	Exited   Cause = "exited"   // by itself
	Hung     Cause = "hung"     // it let go of the connection, and was killed
	Replaced Cause = "replaced" // it was killed because the keeper was told to
)

// An End is that of a virtiofsd while QEMU was connected.
type End struct {
	At       time.Time `json:"at"`
	Cause    Cause     `json:"cause"`
	Status   int       `json:"status"`   // signal or exit code
	Answered uint64    `json:"answered"` // requests of the guest that were answered with an error at once
	Blind    string    `json:"blind,omitempty"`
}

// String says it to a person.
func (e End) String() string {
	switch e.Cause {
	case Killed:
		return fmt.Sprintf("killed by signal %d", e.Status)
	case Exited:
		return fmt.Sprintf("ended with exit code %d", e.Status)
	case Hung:
		return "let go of its connection"
	}
	return "replaced on demand"
}

// ReadReport reads the report in a run directory; nil where there is none yet.
func ReadReport(dir string) (*Report, error) {
	text, err := os.ReadFile(filepath.Join(dir, ReportFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, ReportFile), err)
	}
	return &r, nil
}

func (r Report) write(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// Nobody else writes here, and /run forgets all when the host does.
	name := filepath.Join(dir, ReportFile)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Asked says whether a guest may ever have asked the virtiofsd of the keeper pid
// for anything. Where its requests are not noted, nobody knows: true.
func Asked(pid int) (bool, error) { return vhostuser.Used(pid) }
