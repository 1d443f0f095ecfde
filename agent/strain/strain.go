// Package strain watches what the virtiofsd of attachments take of what they
// may, and says so before a guest fails: a virtiofsd out of open files gives its
// guest errors for every further file, and one out of memory is killed.
//
// It looks at nothing itself.
package strain

import (
	"fmt"
	"time"

	"github.com/causeway-project/causeway/agent/fault"
)

// A Usage is what one virtiofsd takes of what it may. Memory is that of its
// control group, with what belongs to the guest, or, where nobody counts that,
// its own.
type Usage struct {
	Files       uint64
	FilesLimit  uint64
	Memory      uint64 // bytes
	MemoryLimit uint64 // 0 is none
}

// Warnings begin at 80 % of a limit. They end below 70 %, so that one that goes
// to and fro does not come and go with it.
const (
	begin = 80
	end   = 70
)

// above says whether a warning holds.
func above(used, limit uint64, held bool) bool {
	percent := uint64(begin)
	if held {
		percent = end
	}
	return limit > 0 && used >= limit*percent/100
}

// A Watch is that of one attachment. The zero one has seen nothing.
type Watch struct {
	Usage Usage
	At    time.Time // zero: never

	files, memory bool
	next          time.Time
}

// Due says whether it is time to look again.
func (w *Watch) Due(now time.Time) bool { return !now.Before(w.next) }

// share of one processor's time that looks at one virtiofsd may take: with a
// million open files a look takes a second, on kernels before 6.2, which do
// not keep count.
const share = 200

// A Look is what somebody saw, and how long that took.
type Look struct {
	Usage Usage
	At    time.Time // when it began
	Took  time.Duration
}

// Begun are the warnings that began with a look, by their limit.
type Begun struct{ Files, Memory bool }

// Note takes a look in, and tells what began, and whether a warning began or
// ended.
func (w *Watch) Note(l Look) (begun Begun, changed bool) {
	files := above(l.Usage.Files, l.Usage.FilesLimit, w.files)
	memory := above(l.Usage.Memory, l.Usage.MemoryLimit, w.memory)
	begun = Begun{Files: files && !w.files, Memory: memory && !w.memory}
	changed = files != w.files || memory != w.memory
	w.Usage, w.At, w.next = l.Usage, l.At, l.At.Add(share*l.Took)
	w.files, w.memory = files, memory
	return begun, changed
}

// Forget is for a virtiofsd that has ended; it says whether there was a warning.
func (w *Watch) Forget() (changed bool) {
	changed = w.files || w.memory
	*w = Watch{}
	return changed
}

// Warning is the one that holds, or nil.
func (w *Watch) Warning() *fault.Error {
	u := w.Usage
	switch {
	case w.files:
		return &fault.Error{Kind: fault.Exhausted, Reason: fault.FilesNearLimit,
			Message: fmt.Sprintf("virtiofsd has more than %d %% of the %d files open that it may have, one for each that the guest remembers, and at the limit the guest gets errors: "+
				"have the guest forget (echo 2 > /proc/sys/vm/drop_caches), and attach anew with more --open-files", end, u.FilesLimit)}
	case w.memory:
		return &fault.Error{Kind: fault.Exhausted, Reason: fault.MemoryNearLimit,
			Message: fmt.Sprintf("virtiofsd takes more than %d %% of the %d MiB of memory that it may, and is killed above them: attach anew with more --memory", end, u.MemoryLimit>>20)}
	}
	return nil
}
