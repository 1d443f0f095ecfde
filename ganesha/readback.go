package ganesha

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Bits of an export's and a client's options, as in Ganesha's
// src/include/nfs_exports.h. They have been the same since version 2.
const (
	bitRootIDSquash = 0x00000001
	bitRootSquash   = 0x00000002
	bitAllSquash    = 0x00000004
	maskSquash      = bitRootIDSquash | bitRootSquash | bitAllSquash

	bitAnonUIDSet = 0x00000008
	bitAnonGIDSet = 0x00000010

	bitRead      = 0x00000020
	bitWrite     = 0x00000040
	bitMetaRead  = 0x00000080
	bitMetaWrite = 0x00000100
	maskAccess   = bitRead | bitWrite | bitMetaRead | bitMetaWrite

	bitAuthSys   = 0x00002000
	bitAuthKrb5  = 0x00004000
	bitAuthKrb5i = 0x00008000
	bitAuthKrb5p = 0x00010000
	maskAuth     = 0x0001f000

	bitNFSv3     = 0x00100000
	bitNFSv4     = 0x00200000
	maskProtocol = 0x00700000

	bitTCP        = 0x02000000
	maskTransport = 0x07000000

	maskOptions = maskSquash | maskAccess | maskAuth | maskProtocol | maskTransport
	// What a CLIENT block says itself; what it does not say comes from elsewhere.
	maskSet = maskOptions | bitAnonUIDSet | bitAnonGIDSet
)

// A shownClient is one entry of DisplayExport's list, in wire order.
type shownClient struct {
	Client  string
	Version int32 // of the prefix, as are the next three: Client says the same
	Addr    byte
	Mask    byte
	Proto   int32
	AnonUID uint32
	AnonGID uint32
	Expire  uint32
	Options uint32
	Set     uint32 // which of the options the CLIENT block gave itself
}

// A shownExport is what Ganesha says of one export.
type shownExport struct {
	ID      uint16
	Path    string
	Tag     string
	Clients []shownClient
}

// sameTree says whether s is e but for the rules; UpdateExport can do the rest.
func (s *shownExport) sameTree(e Export) bool {
	return s.ID == e.ID && s.Path == e.Path && s.Tag == tag(e)
}

// differs says in words how Ganesha's export differs from e, served by these
// versions; nil if it does not.
func (v Versions) differs(s *shownExport, e Export) error {
	switch {
	case s.ID != e.ID:
		return fmt.Errorf("id is %d", s.ID)
	case s.Path != e.Path:
		return fmt.Errorf("path is %s", short(s.Path))
	case s.Tag != tag(e):
		return errors.New("pseudo path or file system id is another")
	}
	clients := s.Clients
	for i, r := range e.Rules {
		w, err := v.words(r)
		if err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
		ps, err := split(r.Client)
		if err != nil {
			return fmt.Errorf("rule %d: %w", i+1, err)
		}
		if len(clients) < len(ps) {
			return fmt.Errorf("rule %d is missing", i+1)
		}
		for _, p := range ps {
			if err := clients[0].differs(p, w.options, r); err != nil {
				return fmt.Errorf("rule %d: %w", i+1, err)
			}
			clients = clients[1:]
		}
	}
	if len(clients) > 0 {
		return fmt.Errorf("%d rules too many, the first for %s", len(clients), short(clients[0].Client))
	}
	return nil
}

func (c shownClient) differs(p netip.Prefix, options uint32, r Rule) error {
	shown, err := netip.ParsePrefix(c.Client)
	switch {
	case err != nil || shown != p:
		return fmt.Errorf("client is %s, want %s", short(c.Client), p)
	case c.Options&maskOptions != options:
		return fmt.Errorf("options are %#08x, want %#08x", c.Options&maskOptions, options)
	case c.Set&maskSet != maskSet:
		return fmt.Errorf("options set are %#08x, want %#08x", c.Set&maskSet, uint32(maskSet))
	case c.AnonUID != r.AnonUID || c.AnonGID != r.AnonGID:
		return fmt.Errorf("anonymous is %d:%d, want %d:%d", c.AnonUID, c.AnonGID, r.AnonUID, r.AnonGID)
	}
	return nil
}

// has tells which of the rules are among s's, wherever.
func (v Versions) has(s *shownExport, rules []Rule) map[Rule]bool {
	if s == nil {
		return nil
	}
	has := map[Rule]bool{}
	for _, r := range rules {
		w, err := v.words(r)
		ps, bad := split(r.Client)
		if err != nil || bad != nil {
			continue
		}
		has[r] = !slices.ContainsFunc(ps, func(p netip.Prefix) bool {
			return !slices.ContainsFunc(s.Clients, func(c shownClient) bool { return c.differs(p, w.options, r) == nil })
		})
	}
	return has
}
