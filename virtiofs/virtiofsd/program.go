package virtiofsd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// ErrUnable says that the virtiofsd of this host cannot do what a Daemon asks
// for.
var ErrUnable = errors.New("virtiofsd cannot do that")

// A Flavour is one of the two programs called virtiofsd.
type Flavour string

// The flavours.
const (
	FlavourC    Flavour = "c"    // came with QEMU up to 7.2, and takes its settings behind -o
	FlavourRust Flavour = "rust" // its successor, a project of its own
)

// A Program is a virtiofsd and what it can do.
type Program struct {
	Path      string
	Flavour   Flavour
	Version   string // as it says itself
	Abilities []Ability
}

// An Ability is something that not every virtiofsd can do.
type Ability string

// The abilities.
const (
	CacheAuto     Ability = "cache_auto"
	CacheAlways   Ability = "cache_always"
	CacheNever    Ability = "cache_never"
	CacheMetadata Ability = "cache_metadata"
	Xattr         Ability = "xattr"
	PosixACL      Ability = "posix_acl"
	SharedLocks   Ability = "shared_locks" // tries locks on the host
	Threads       Ability = "threads"      // serves several requests at a time
	SelfReadOnly  Ability = "read_only"    // refuses to write by itself, beside the mount
	FileHandles   Ability = "file_handles" // needs no open file for each that the guest knows of
	Migration     Ability = "migration"    // hands its state to another one
	SquashIDs     Ability = "squash_ids"   // makes all that the guest makes one owner's
	MapIDs        Ability = "map_ids"      // other ids on the share, where its file system can
)

// abilities is how each flavour shows in its help, or among the features that
// it prints as its capabilities, that it can do something. The Rust one gained
// its options over the years.
var abilities = []struct {
	ability Ability
	c, rust string // empty: no version of the flavour can
}{
	{CacheAuto, "-o cache=", "--cache"},
	{CacheAlways, "-o cache=", "--cache"},
	{CacheNever, "-o cache=", "--cache"},
	{CacheMetadata, "", "metadata)"},
	{Xattr, "-o xattr|", "--xattr"},
	{PosixACL, "-o posix_acl", "--posix-acl"},
	{SharedLocks, "-o posix_lock|", ""},
	// The C one has --thread-pool-size too, and dies of it: with 8 threads, in
	// four of five tries, when the guest first forgot 50 files at once (7.2.22).
	{Threads, "", "--thread-pool-size"},
	{SelfReadOnly, "", "--readonly"},
	{FileHandles, "", "--inode-file-handles"},
	{Migration, "", "migrate-precopy"},
	{SquashIDs, "", "squash-guest"},
	{MapIDs, "-o source=PATH", "--shared-dir"}, // the kernel does it below either
}

// Has tells whether it can do all of these.
func (p Program) Has(all ...Ability) bool {
	return !slices.ContainsFunc(all, func(a Ability) bool { return !slices.Contains(p.Abilities, a) })
}

// probing is how long a virtiofsd may take to say what it is.
const probing = 5 * time.Second

// detect asks a virtiofsd what it is: only the Rust one has --shared-dir.
func detect(ctx context.Context, binary string) (Program, error) {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	ask := func(option string) (string, error) {
		c := exec.CommandContext(ctx, binary, option)
		c.WaitDelay = time.Second
		out, err := c.CombinedOutput()
		return string(out), err
	}
	help, err := ask("--help")
	if errors.Is(err, fs.ErrNotExist) {
		return Program{}, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	p := Program{Path: binary}
	switch {
	case strings.Contains(help, "--shared-dir"):
		p.Flavour = FlavourRust
	case strings.Contains(help, "-o source=PATH"):
		p.Flavour = FlavourC
	case err != nil:
		return Program{}, fmt.Errorf("ask %s for its options: %w", binary, err)
	default:
		return Program{}, fmt.Errorf("%s: its help is not that of a virtiofsd", binary)
	}
	// Some versions lack these questions: then what they would add is not there.
	features, _ := ask("--print-capabilities")
	version, _ := ask("--version")
	p.Version = parseVersion(version)
	for _, a := range abilities {
		shows := a.c
		if p.Flavour == FlavourRust {
			shows = a.rust
		}
		if shows != "" && strings.Contains(help+features, shows) {
			p.Abilities = append(p.Abilities, a.ability)
		}
	}
	return p, nil
}

// parseVersion finds the number in "virtiofsd version 7.2.22 (Debian ...)" and
// in "virtiofsd 1.13.2".
func parseVersion(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	for _, w := range strings.Fields(line) {
		if w[0] >= '0' && w[0] <= '9' {
			return w
		}
	}
	return ""
}
