package local

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/drivers"
)

const (
	maxSource    = unix.PathMax - 1 // bytes; PathMax counts the final NUL
	maxComponent = 255              // bytes: NAME_MAX of every file system we know
	maxQuoted    = 64               // bytes of the caller's text in an error
)

// Validate checks c without I/O. Every error wraps drivers.ErrSource, names
// what is wrong and what would be right.
func (d *Driver) Validate(c drivers.Connection) error {
	if err := d.check(c); err != nil {
		return fmt.Errorf("%w: %w", drivers.ErrSource, err)
	}
	return nil
}

func (d *Driver) check(c drivers.Connection) error {
	if c.Kind != Kind {
		return fmt.Errorf("kind is %s, this driver serves %q", quote(c.Kind), Kind)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Options)) {
		if key != PoolOption {
			return fmt.Errorf("option %s is unknown, %q is the only one", quote(key), PoolOption)
		}
	}
	name := poolName(c)
	if _, ok := d.pools[name]; !ok {
		return fmt.Errorf("pool %s is not configured, %s", quote(name), d.poolsThere())
	}
	if !c.Secret.IsZero() {
		return fmt.Errorf("a secret was given, a local share takes none")
	}
	return checkSource(c.Source)
}

func (d *Driver) poolsThere() string {
	if len(d.pools) == 0 {
		return "this host has no pool"
	}
	return fmt.Sprintf("this host has %q", slices.Sorted(maps.Keys(d.pools)))
}

func poolName(c drivers.Connection) string {
	if name := c.Options[PoolOption]; name != "" {
		return name
	}
	return DefaultPool
}

// checkSource wants the one plain way to write a path below the pool, so that
// two spellings of one share are not taken for two shares.
func checkSource(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("source is empty, name a directory of the pool such as \"docs\"")
	case len(s) > maxSource:
		return fmt.Errorf("source %s is %d bytes long, at most %d are allowed", quote(s), len(s), maxSource)
	case !utf8.ValidString(s):
		return fmt.Errorf("source %s is not UTF-8", quote(s))
	}
	for _, r := range s {
		// Also what cannot be seen, such as U+202E, which turns the text of a
		// log or a table around.
		if !unicode.IsPrint(r) {
			return fmt.Errorf("source %s holds the character %U, only printable ones are allowed", quote(s), r)
		}
	}
	if path.IsAbs(s) {
		return fmt.Errorf("source %s is absolute, give the path below the pool", quote(s))
	}
	for part := range strings.SplitSeq(s, "/") {
		switch {
		case part == "..":
			return fmt.Errorf("source %s holds \"..\", name the directory itself", quote(s))
		case part == "" || part == ".":
			return fmt.Errorf("source %s has an empty or \".\" part, write a plain path such as \"team/docs\"", quote(s))
		case len(part) > maxComponent:
			return fmt.Errorf("source %s has a part of %d bytes, at most %d are allowed", quote(s), len(part), maxComponent)
		}
	}
	return nil
}

// quote shortens what a caller wrote: errors go into logs and answers.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return fmt.Sprintf("%q", s)
	}
	cut := maxQuoted
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q...", s[:cut])
}
