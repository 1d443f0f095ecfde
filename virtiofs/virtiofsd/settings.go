package virtiofsd

import (
	"fmt"
	"strconv"
	"strings"
)

// Settings of a daemon. The zero value is what both flavours do by themselves.
type Settings struct {
	Cache       Cache
	Xattr       bool
	PosixACL    bool // takes Xattr
	SharedLocks bool // the guest's locks are taken on the host, where a program cannot wait for one
	Threads     int  // requests served at a time, 1 where 0
	Memory      uint64
	Files       uint64 // open ones
}

// A Cache is what the guest keeps without asking: auto where empty.
type Cache string

// ability that a cache takes.
func (c Cache) ability() Ability {
	if c == "" {
		return CacheAuto
	}
	return Ability("cache_" + string(c))
}

// needs lists what a program has to be able to for these settings.
func (s Settings) needs() []Ability {
	need := []Ability{s.Cache.ability()}
	for _, n := range []struct {
		asked   bool
		ability Ability
	}{{s.Xattr, Xattr}, {s.PosixACL, PosixACL}, {s.SharedLocks, SharedLocks}, {s.Threads > 1, Threads}} {
		if n.asked {
			need = append(need, n.ability)
		}
	}
	return need
}

// kept is the arguments of the keeper of a virtiofsd that has these.
func (p Program) kept(v Daemon, args []string) []string {
	own := []string{"-dir", v.Dir, "-socket", v.Socket()}
	if p.Flavour == FlavourC {
		// It answers the requests of one batch last to first
		// (QEMU 7.2, tools/virtiofsd/fuse_virtio.c, fv_queue_thread).
		own = append(own, "-inflight")
	}
	if !v.IDs.passthrough() {
		own = append(own, "-own-users")
	}
	return append(append(own, "--", p.Path), args...)
}

// arguments of a virtiofsd that serves v, without those of its socket, which
// its keeper adds: ErrUnable.
//
// Both flavours stay in the foreground, sandbox themselves in namespaces of
// their own with the source as their root, show mounts below it as mounts (so
// that inode numbers do not collide), and keep the limit of open files that
// they are started with.
func (p Program) arguments(v Daemon) ([]string, error) {
	for _, a := range v.Settings.needs() {
		if !p.Has(a) {
			return nil, fmt.Errorf("%w: %s is of flavour %s and lacks %s", ErrUnable, p.Path, p.Flavour, a)
		}
	}
	if v.IDs.Squash && (!p.Has(SquashIDs) || v.Settings.PosixACL) {
		return nil, fmt.Errorf("%w: %s is of flavour %s and lacks %s, or not with %s", ErrUnable, p.Path, p.Flavour, SquashIDs, PosixACL)
	}
	if p.Flavour == FlavourRust {
		return p.rustArguments(v), nil
	}
	return cArguments(v), nil
}

func (p Program) rustArguments(v Daemon) []string {
	s := v.Settings
	args := []string{
		"--shared-dir=" + v.Source,
		"--sandbox=namespace",
		"--announce-submounts",
		"--log-level=warn",
		"--rlimit-nofile=0",
	}
	if s.Cache != "" {
		args = append(args, "--cache="+string(s.Cache))
	}
	if s.Xattr {
		args = append(args, "--xattr")
	}
	if s.PosixACL {
		args = append(args, "--posix-acl")
	}
	if s.Threads > 1 {
		args = append(args, "--thread-pool-size="+strconv.Itoa(s.Threads))
	}
	if v.ReadOnly && p.Has(SelfReadOnly) {
		args = append(args, "--readonly")
	}
	if v.IDs.Squash {
		args = append(args, fmt.Sprintf("--translate-uid=squash-guest:0:%d:%d", v.IDs.UID, maxIDs), fmt.Sprintf("--translate-gid=squash-guest:0:%d:%d", v.IDs.GID, maxIDs))
	}
	if drop := v.IDs.drops(); drop != "" {
		args = append(args, "--modcaps="+drop)
	} else if p.Has(FileHandles) {
		// Where the file system has file handles it then keeps no file open for
		// each that the guest remembers. To open by handle takes a capability of
		// the host's own user namespace.
		args = append(args, "--inode-file-handles=prefer", "--modcaps=+dac_read_search")
	}
	return args
}

func cArguments(v Daemon) []string {
	s := v.Settings
	args := []string{
		"-f",
		"-o", "source=" + escapeOption(v.Source),
		"-o", "sandbox=namespace",
		"-o", "announce_submounts",
		"-o", "log_level=warn",
		"--rlimit-nofile=0",
	}
	switch s.Cache {
	case "":
	case "never":
		args = append(args, "-o", "cache=none")
	default:
		args = append(args, "-o", "cache="+string(s.Cache))
	}
	if s.Xattr {
		args = append(args, "-o", "xattr")
	}
	if s.PosixACL {
		args = append(args, "-o", "posix_acl")
	}
	if s.SharedLocks {
		args = append(args, "-o", "flock", "-o", "posix_lock")
	}
	if drop := v.IDs.drops(); drop != "" {
		args = append(args, "-o", "modcaps="+drop)
	}
	return args
}

// escapeOption quotes a value for -o: fuse_opt_parse (libfuse, lib/fuse_opt.c,
// which the C daemon carries) ends an option at a comma and takes a backslash
// for an escape.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}
