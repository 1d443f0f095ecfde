package main

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// deviceFlags are what a virtiofs device and its daemon do; what is not given
// is left to the agent.
type deviceFlags struct {
	cache, locks      string
	xattr, posixACL   bool
	queue, threads    int32
	memory, openFiles string
	ids               []string
}

const idsForm = "passthrough, squash=UID:GID, or map=GUEST:HOST:COUNT"

func (f *deviceFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.cache, "cache", "", "what the guest keeps without asking: auto, always, never or metadata")
	flags.BoolVar(&f.xattr, "xattr", false, "extended attributes")
	flags.BoolVar(&f.posixACL, "posix-acl", false, "POSIX access control lists, with extended attributes")
	flags.StringVar(&f.locks, "locks", "", "where locks are kept: local (in the guest) or shared (on the host)")
	flags.Int32Var(&f.queue, "queue-size", 0, "requests under way, a power of two from 8 to 1024")
	flags.Int32Var(&f.threads, "threads", 0, "requests that are served at a time")
	flags.StringVar(&f.memory, "memory", "", "what virtiofsd may take, in bytes or like 512M")
	flags.StringVar(&f.openFiles, "open-files", "", "files that virtiofsd may hold open, like 65536 or 64K")
	flags.StringArrayVar(&f.ids, "ids", nil, "whose the guest's files are: "+idsForm+
		"; map-uids= and map-gids= for one kind alone; maps may be repeated")
	for name, words := range map[string][]string{
		"cache": {"auto", "always", "never", "metadata"}, "locks": {"local", "shared"}, "ids": {"passthrough"},
	} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	}
	for _, name := range []string{"queue-size", "threads", "memory", "open-files"} {
		must(cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions))
	}
}

// settings as they were given; nil where none was.
func (f *deviceFlags) settings(cmd *cobra.Command) (*nodev1.DeviceSettings, error) {
	s := &nodev1.DeviceSettings{QueueSize: f.queue, Threads: f.threads}
	var err error
	if s.Cache, err = oneOf[nodev1.Cache]("cache", f.cache, nodev1.Cache_value, "CACHE_"); err != nil {
		return nil, err
	}
	if s.Locks, err = oneOf[nodev1.Locks]("locks", f.locks, nodev1.Locks_value, "LOCKS_"); err != nil {
		return nil, err
	}
	if cmd.Flags().Changed("xattr") {
		s.Xattr = &f.xattr
	}
	if cmd.Flags().Changed("posix-acl") {
		s.PosixAcl = &f.posixACL
	}
	if s.Memory, err = parseAmount("memory", f.memory); err != nil {
		return nil, err
	}
	if s.OpenFiles, err = parseAmount("open-files", f.openFiles); err != nil {
		return nil, err
	}
	if proto.Equal(s, &nodev1.DeviceSettings{}) {
		return nil, nil
	}
	return s, nil
}

// oneOf reads a word of an enumeration; none is its zero.
func oneOf[E ~int32](flag, given string, values map[string]int32, prefix string) (E, error) {
	if given == "" {
		return 0, nil
	}
	v, ok := values[prefix+strings.ToUpper(given)]
	if !ok || v == 0 || strings.ToLower(given) != given {
		var all []string
		for name, n := range values {
			if n != 0 {
				all = append(all, strings.ToLower(strings.TrimPrefix(name, prefix)))
			}
		}
		slices.Sort(all)
		return 0, usage("--%s %q is none of %s", flag, given, strings.Join(all, ", "))
	}
	return E(v), nil
}

// parseAmount reads 512, 64K, 512M or 2G; nothing is 0.
func parseAmount(flag, given string) (uint64, error) {
	if given == "" {
		return 0, nil
	}
	digits, shift := given, 0
	if i := strings.IndexAny(given, "KMG"); i > 0 && i == len(given)-1 {
		digits, shift = given[:i], map[byte]int{'K': 10, 'M': 20, 'G': 30}[given[i]]
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || bits.Len64(n)+shift > 63 {
		return 0, usage("--%s %q is not an amount like 512, 64K or 2G", flag, given)
	}
	return n << shift, nil
}

// policy of ids; nil is passthrough.
func (f *deviceFlags) policy() (*nodev1.IdPolicy, error) {
	to := &nodev1.IdMap{}
	for _, s := range f.ids {
		kind, rest, _ := strings.Cut(s, "=")
		numbers, err := parseIDs(rest)
		switch {
		case kind == "passthrough" && rest == "" && len(f.ids) == 1:
			return nil, nil
		case err != nil:
			return nil, usage("--ids %q: %v; the form is %s", s, err, idsForm)
		case kind == "squash" && len(numbers) == 2 && len(f.ids) == 1:
			return &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Squash{Squash: &nodev1.IdSquash{Uid: numbers[0], Gid: numbers[1]}}}, nil
		case len(numbers) != 3:
			return nil, usage("--ids %q is not %s", s, idsForm)
		}
		r := &nodev1.IdRange{Guest: numbers[0], Host: numbers[1], Count: numbers[2]}
		switch kind {
		case "map":
			to.Uids, to.Gids = append(to.Uids, r), append(to.Gids, r)
		case "map-uids":
			to.Uids = append(to.Uids, r)
		case "map-gids":
			to.Gids = append(to.Gids, r)
		default:
			return nil, usage("--ids %q is not %s", s, idsForm)
		}
	}
	if len(f.ids) == 0 {
		return nil, nil
	}
	return &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: to}}, nil
}

func parseIDs(s string) ([]uint32, error) {
	var all []uint32
	for w := range strings.SplitSeq(s, ":") {
		n, err := strconv.ParseUint(w, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no user or group number", w)
		}
		all = append(all, uint32(n))
	}
	return all, nil
}

// settings in the words of the flags.
func settings(s *nodev1.DeviceSettings) []string {
	if s == nil {
		return nil
	}
	all := []string{
		"cache=" + word(s.GetCache(), "CACHE_"),
		"xattr=" + yesNo(s.GetXattr()),
		"posix-acl=" + yesNo(s.GetPosixAcl()),
		"locks=" + word(s.GetLocks(), "LOCKS_"),
		fmt.Sprintf("queue-size=%d", s.GetQueueSize()),
		fmt.Sprintf("threads=%d", s.GetThreads()),
	}
	for _, l := range []struct {
		name string
		is   uint64
	}{{"memory", s.GetMemory()}, {"open-files", s.GetOpenFiles()}} {
		if l.is == 0 {
			all = append(all, l.name+"=none")
			continue
		}
		all = append(all, fmt.Sprintf("%s=%d", l.name, l.is))
	}
	return all
}

// taken is what a virtiofsd takes of what it may.
func taken(u *nodev1.Usage) []string {
	if u == nil {
		return nil
	}
	memory := fmt.Sprintf("memory %.1f MiB", float64(u.GetMemory())/(1<<20))
	if u.GetMemoryLimit() > 0 {
		memory += fmt.Sprintf(" of %.1f MiB", float64(u.GetMemoryLimit())/(1<<20))
	}
	return []string{fmt.Sprintf("open files %d of %d", u.GetOpenFiles(), u.GetOpenFilesLimit()), memory}
}

// ids in the words of --ids.
func ids(p *nodev1.IdPolicy) []string {
	var all []string
	switch p := p.GetPolicy().(type) {
	case *nodev1.IdPolicy_Squash:
		return []string{fmt.Sprintf("squash=%d:%d", p.Squash.GetUid(), p.Squash.GetGid())}
	case *nodev1.IdPolicy_Map:
		for _, of := range []struct {
			kind   string
			ranges []*nodev1.IdRange
		}{{"map-uids", p.Map.GetUids()}, {"map-gids", p.Map.GetGids()}} {
			for _, r := range of.ranges {
				all = append(all, fmt.Sprintf("%s=%d:%d:%d", of.kind, r.GetGuest(), r.GetHost(), r.GetCount()))
			}
		}
		return all
	}
	return []string{"passthrough"}
}
