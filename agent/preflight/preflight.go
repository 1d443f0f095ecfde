// Package preflight says whether an instance can have a share, before anything
// is changed: one verdict on each thing, with the command that cures it. The
// same table gives the reasons for which an attach is refused.
//
// It looks at nothing itself: Facts are what others saw.
package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/parts"
	"github.com/causeway-project/causeway/drivers"
)

// Facts are what an attachment would meet. What is nil was not looked at, and
// has no verdict.
type Facts struct {
	Want     model.Attachment  // without a tag, tags have no verdict
	Alias    string            // of the device that it would have, which is not in its own way
	Instance parts.Instance    // required
	Others   []Other           // attachments of the same instance
	Program  *parts.Program    // virtiofsd
	Missing  *fault.Error      // why there is no program
	Libvirt  *parts.Hypervisor // what the instance runs on
	Guest    *parts.GuestAgent
	HotPlug  *fault.Error // why nothing can be plugged into the instance, or nil
	Locks    *fault.Error // why it may not be a further writer, or nil
	Share    *Share
}

// An Other is an attachment that the agent has for the same instance.
type Other struct {
	ID    string
	Tag   string
	Share bool // it is of the same share
}

// A Share is what its driver found.
type Share struct {
	Name    string
	Refused *fault.Error   // nil: it can be had
	Owner   *drivers.Owner // of its directory
}

// A Finding is the verdict on one thing.
type Finding struct {
	model.Check
	err *fault.Error // for which Attach refuses; with every Fail
}

// Err returns why an attachment cannot be, nil where the thing is as it should.
func (f Finding) Err() *fault.Error { return f.err }

// Refusal returns the error of the first that fails, or nil.
func Refusal(all []Finding) error {
	for _, f := range all {
		if f.err != nil {
			return f.err
		}
	}
	return nil
}

// Lines returns the verdicts as a caller is told them.
func Lines(all []Finding) []model.Check {
	lines := make([]model.Check, 0, len(all))
	for _, f := range all {
		lines = append(lines, f.Check)
	}
	return lines
}

// Look gives the verdicts, in the order in which an attach would fail.
func Look(f Facts) []Finding {
	var all []Finding
	add := func(found ...Finding) { all = append(all, found...) }
	add(f.running())
	if !f.Instance.Running {
		// Of an instance that is off neither memory nor ports are settled, but
		// what is wrong with its definition is worth knowing before its start.
		for _, later := range []Finding{f.memory(), f.ports()} {
			if later.Verdict != model.Pass {
				add(later)
			}
		}
	} else {
		add(f.memory())
	}
	if f.Want.Tag != "" {
		add(f.tag())
	}
	if f.Instance.Running {
		add(f.ports(), f.hotPlug())
	}
	if f.Missing != nil || f.Program != nil {
		add(f.virtiofsd())
	}
	if f.Share != nil {
		add(f.share())
		if f.Share.Owner != nil && f.Want.IDs.Policy != device.Passthrough {
			add(f.owner())
		}
		add(f.locks())
	}
	if slices.ContainsFunc(f.Others, func(o Other) bool { return o.Share }) {
		add(f.twice())
	}
	if f.Program != nil {
		p := *f.Program
		p.WantFiles = cmp.Or(f.Want.Settings.OpenFiles, p.WantFiles)
		add(OpenFiles(p))
		if f.memoryLimited() != 0 {
			add(f.memoryLimit())
		}
	}
	if f.Libvirt != nil {
		add(f.generation())
	}
	if f.Guest != nil {
		add(f.guest())
	}
	return all
}

// Draft is a request with words that will do for those that are not said yet.
func Draft(at model.Attachment) model.Attachment {
	at.ID = cmp.Or(at.ID, "id")
	at.Tag = cmp.Or(at.Tag, "tag")
	return at
}

// Invalid is the only verdict on a request that can never be.
func Invalid(name string, e *fault.Error) Finding { return fail(name, "", e) }

func pass(name, format string, args ...any) Finding {
	return Finding{Check: model.Check{Name: name, Verdict: model.Pass, Message: fmt.Sprintf(format, args...)}}
}

func warn(name, fix, format string, args ...any) Finding {
	return Finding{Check: model.Check{Name: name, Verdict: model.Warn, Message: fmt.Sprintf(format, args...), Fix: fix}}
}

func fail(name, fix string, e *fault.Error) Finding {
	return Finding{Check: model.Check{Name: name, Verdict: model.Fail, Message: e.Error(), Fix: fix, Reason: e.Reason}, err: e}
}

// ErrTagTaken is the refusal of a tag that the instance has already.
func ErrTagTaken(at model.Attachment) *fault.Error {
	return &fault.Error{Kind: fault.Precondition, Reason: fault.TagTaken, Metadata: map[string]string{"tag": at.Tag},
		Message: fmt.Sprintf("tag %q is taken in instance %s: choose another", at.Tag, quoted(at.Instance))}
}

// shell quotes a word for a POSIX shell, where it needs that.
func shell(s string) string {
	plain := s != "" && !strings.HasPrefix(s, "-") && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-+/:@", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
