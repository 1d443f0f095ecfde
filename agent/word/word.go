// Package word is about the words that callers choose: what an id can be, and how
// an error shows a word that is refused.
package word

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/causeway-project/causeway/agent/fault"
)

// Own begins the names of all that the agent makes on a host. No caller may choose
// one for what the agent is to leave alone.
const Own = "cw"

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// IsID says whether a word has the alphabet and the length of an id.
func IsID(s string) bool { return idPattern.MatchString(s) }

// Quote shows a caller's word in an error, cut and escaped.
func Quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%q... (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// CheckID refuses what no id can be. They become file names, host names of
// links and libvirt aliases: what is refused here reaches no other syntax.
func CheckID(kind, id string) error {
	if !IsID(id) || strings.Contains(id, "..") {
		return fault.Invalidf(fault.BadID, "%s id %s: use 1 to 63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, without \"..\"", kind, Quote(id))
	}
	return nil
}

// CheckGivenID is for ids of what should exist already: one that could never
// be is not there.
func CheckGivenID(kind, id string) error {
	if id == "" {
		return fault.Invalidf(fault.BadID, "the %s id is empty", kind)
	}
	return nil
}

// Printable says whether a word has nothing in it that a terminal would act on.
func Printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}
