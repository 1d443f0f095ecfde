package drivers

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// A Secret prints as "***" through every verb, encoder and logger, also when
// it sits inside something else, where slog does not look for LogValuers.
//
// The bytes are behind a function and not in a field, because fmt calls no
// method of a value in somebody's unexported field, nor under a wrong verb
// ("%!w(...)"): it walks the fields by reflection, and prints what it finds. A
// function shows at most an address.
type Secret struct{ reveal func() []byte }

// NewSecret keeps b, which the caller must not change.
func NewSecret(b []byte) Secret { return Secret{func() []byte { return b }} }

// Reveal is the only way in: whoever looks for it finds every use.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return len(s.Reveal()) == 0 }

// Equal compares without telling by its duration where the two differ.
func (s Secret) Equal(t Secret) bool {
	return subtle.ConstantTimeCompare(s.Reveal(), t.Reveal()) == 1
}

// Format implements fmt.Formatter for all verbs.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "***") }

// MarshalText serves encoding/json and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }
