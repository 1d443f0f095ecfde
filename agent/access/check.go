package access

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/word"
	"github.com/causeway-project/causeway/ganesha"
)

// CheckAll refuses rules that could never be, whatever else there is.
func CheckAll(rules []Rule) error {
	if len(rules) > Most {
		return tooManyRules(len(rules))
	}
	ids := map[string]bool{}
	for _, r := range rules {
		if err := Check(r); err != nil {
			return err
		}
		if r.ID != "" && ids[r.ID] {
			return fault.Invalidf(fault.RuleConflict, "two access rules have the id %s: give each its own", word.Quote(r.ID))
		}
		ids[r.ID] = true
	}
	return nil
}

func tooManyRules(n int) error {
	return fault.Invalidf(fault.TooManyRules, "%d access rules: an export takes at most %d, so name prefixes rather than single clients", n, Most)
}

// Check refuses a rule that could never be.
func Check(r Rule) error {
	if r.ID != "" {
		if err := word.CheckID("access rule", r.ID); err != nil {
			return err
		}
	}
	if err := checkClient(r); err != nil {
		return err
	}
	if r.Level != LevelRO && r.Level != LevelRW {
		return fault.Invalidf(fault.BadRule, "access rule for %v: level %s must be ro or rw", r.Client, word.Quote(string(r.Level)))
	}
	if !slices.Contains([]Squash{SquashNone, SquashRoot, SquashRootID, SquashAll}, r.Squash) {
		return fault.Invalidf(fault.BadRule, "access rule for %v: squash %s must be none, root, root_id or all", r.Client, word.Quote(string(r.Squash)))
	}
	if r.Squash == SquashNone && (r.AnonUID != Anonymous || r.AnonGID != Anonymous) {
		return fault.Invalidf(fault.BadRule, "access rule for %v: squash none maps nobody, so leave the anonymous user and group out, or squash root or all", r.Client)
	}
	if r.AnonUID == ganesha.NoID || r.AnonGID == ganesha.NoID {
		return fault.Invalidf(fault.BadRule, "access rule for %v: %d is no user and no group, and whoever were mapped to it would act as root: choose another", r.Client, uint32(ganesha.NoID))
	}
	for _, s := range r.Sec {
		switch s {
		case SecSys:
		case SecKrb5, SecKrb5i, SecKrb5p:
			return &fault.Error{Kind: fault.Precondition, Reason: fault.NoKerberos,
				Message: fmt.Sprintf("access rule for %v: security flavour %s wants Kerberos, and this agent's gateways have no keytab: use sys", r.Client, s)}
		default:
			return fault.Invalidf(fault.BadRule, "access rule for %v: security flavour %s must be sys, krb5, krb5i or krb5p", r.Client, word.Quote(string(s)))
		}
	}
	return checkMetadata(r)
}

func checkClient(r Rule) error {
	a := r.Client.Addr()
	switch {
	case !r.Client.IsValid():
		return fault.Invalidf(fault.BadRule, "an access rule has no client: give an address or prefix, for example 10.77.0.0/24")
	case a.Is4In6() || a.Zone() != "":
		return fault.Invalidf(fault.BadRule, "access rule for %v: write IPv4 as such, and no zone", r.Client)
	case r.Client != r.Client.Masked():
		return fault.Invalidf(fault.BadRule, "access rule for %v has bits behind its prefix: did you mean %v or %v?", r.Client, r.Client.Masked(), a)
	case a.Is6() && r.Client.Bits() >= 100 && r.Client.Bits() < 128:
		// Ganesha reads two digits of an IPv6 prefix length.
		return fault.Invalidf(fault.BadRule, "access rule for %v: Ganesha takes IPv6 prefixes up to /99, and single addresses", r.Client)
	case r.Client.IsSingleIP() && (a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})):
		return fault.Invalidf(fault.BadRule, "access rule for %v: no client has this address: give an address or prefix, for example 10.77.0.0/24", r.Client)
	case r.Client.Bits() == 0 && !r.Everyone:
		return fault.Invalidf(fault.RuleForEveryone, "access rule for %v lets everyone in: say so with allow_everyone (--everyone), or give a prefix", r.Client)
	}
	return nil
}

func checkMetadata(r Rule) error {
	size := 0
	for k, v := range r.Metadata {
		if !word.IsID(k) || !word.Printable(v) {
			return fault.Invalidf(fault.BadMetadata, "access rule for %v: metadata %s: use 1 to 63 of A-Z a-z 0-9 . _ - for a key, and printable text for its value", r.Client, word.Quote(k))
		}
		size += len(k) + len(v)
	}
	if len(r.Metadata) > mostMetadata || size > mostMetadataBytes {
		return fault.Invalidf(fault.BadMetadata, "access rule for %v has %d metadata of %d bytes: keep at most %d, of %d bytes together",
			r.Client, len(r.Metadata), size, mostMetadata, mostMetadataBytes)
	}
	return nil
}
