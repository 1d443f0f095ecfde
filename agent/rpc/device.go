package rpc

import (
	"google.golang.org/protobuf/proto"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/model"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// The words of the API for those of the agent. Zero is left out in both.
var (
	caches = words[nodev1.Cache, device.Cache]{
		nodev1.Cache_CACHE_AUTO: device.CacheAuto, nodev1.Cache_CACHE_ALWAYS: device.CacheAlways,
		nodev1.Cache_CACHE_NEVER: device.CacheNever, nodev1.Cache_CACHE_METADATA: device.CacheMetadata,
	}
	locks  = words[nodev1.Locks, device.Locks]{nodev1.Locks_LOCKS_LOCAL: device.LocksLocal, nodev1.Locks_LOCKS_SHARED: device.LocksShared}
	scopes = words[nodev1.LockScope, device.Scope]{
		nodev1.LockScope_LOCK_SCOPE_GUEST: device.ScopeGuest, nodev1.LockScope_LOCK_SCOPE_HOST: device.ScopeHost,
		nodev1.LockScope_LOCK_SCOPE_SHARE: device.ScopeShare,
	}
)

type words[N ~int32, W ~string] map[N]W

// from reads one of a request; what this agent does not know is refused.
func (ws words[N, W]) from(n N, field string) (W, error) {
	w, ok := ws[n]
	if !ok && n != 0 {
		return "", malformed(field, "%d is no value of it", n)
	}
	return w, nil
}

func (ws words[N, W]) to(w W) N {
	for n, is := range ws {
		if is == w {
			return n
		}
	}
	return 0
}

func settingsFrom(s *nodev1.DeviceSettings) (device.Settings, error) {
	const field = "attachment.settings."
	cache, err := caches.from(s.GetCache(), field+"cache")
	if err != nil {
		return device.Settings{}, err
	}
	kept, err := locks.from(s.GetLocks(), field+"locks")
	if err != nil {
		return device.Settings{}, err
	}
	if s == nil {
		return device.Settings{}, nil
	}
	return device.Settings{
		Cache: cache, Xattr: switchFrom(s.Xattr), PosixACL: switchFrom(s.PosixAcl), Locks: kept,
		QueueSize: int(s.GetQueueSize()), Threads: int(s.GetThreads()), Memory: s.GetMemory(), OpenFiles: s.GetOpenFiles(),
	}, nil
}

func settingsTo(s device.Settings) *nodev1.DeviceSettings {
	return &nodev1.DeviceSettings{
		Cache: caches.to(s.Cache), Xattr: switchTo(s.Xattr), PosixAcl: switchTo(s.PosixACL), Locks: locks.to(s.Locks),
		QueueSize: int32(s.QueueSize), Threads: int32(s.Threads), Memory: s.Memory, OpenFiles: s.OpenFiles,
	}
}

func switchFrom(on *bool) device.Switch {
	switch {
	case on == nil:
		return ""
	case *on:
		return device.On
	}
	return device.Off
}

func switchTo(s device.Switch) *bool {
	if s == "" {
		return nil
	}
	return proto.Bool(s == device.On)
}

func idsFrom(p *nodev1.IdPolicy) device.IDs {
	switch p := p.GetPolicy().(type) {
	case *nodev1.IdPolicy_Squash:
		return device.IDs{Policy: device.Squash, UID: p.Squash.GetUid(), GID: p.Squash.GetGid()}
	case *nodev1.IdPolicy_Map:
		return device.IDs{Policy: device.Map, UIDs: each(p.Map.GetUids(), rangeFrom), GIDs: each(p.Map.GetGids(), rangeFrom)}
	}
	return device.IDs{}
}

func rangeFrom(r *nodev1.IdRange) device.Range {
	return device.Range{Guest: r.GetGuest(), Host: r.GetHost(), Count: r.GetCount()}
}

func idsTo(p device.IDs) *nodev1.IdPolicy {
	switch p.Policy {
	case device.Squash:
		return &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Squash{Squash: &nodev1.IdSquash{Uid: p.UID, Gid: p.GID}}}
	case device.Map:
		return &nodev1.IdPolicy{Policy: &nodev1.IdPolicy_Map{Map: &nodev1.IdMap{Uids: each(p.UIDs, rangeTo), Gids: each(p.GIDs, rangeTo)}}}
	}
	return nil
}

func rangeTo(r device.Range) *nodev1.IdRange {
	return &nodev1.IdRange{Guest: r.Guest, Host: r.Host, Count: r.Count}
}

func virtiofsdTo(v model.Virtiofsd) *nodev1.Virtiofsd {
	if v.Path == "" && v.Message == "" {
		return nil
	}
	return &nodev1.Virtiofsd{
		Path: text(v.Path), Flavour: v.Flavour, Version: text(v.Version), Abilities: each(v.Abilities, text), Message: text(v.Message),
	}
}
