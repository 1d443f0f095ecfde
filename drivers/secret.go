package drivers

import (
	"fmt"
	"io"
)

// A Secret prints as "***" through every verb, encoder and logger, also when
// it sits inside something else, where slog does not look for LogValuers.
type Secret struct{ b []byte }

// NewSecret keeps b, which the caller must not change.
func NewSecret(b []byte) Secret { return Secret{b} }

// Reveal is the only way in: whoever looks for it finds every use.
func (s Secret) Reveal() []byte { return s.b }

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// Format implements fmt.Formatter for all verbs.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "***") }

// MarshalText serves encoding/json and slog.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }
