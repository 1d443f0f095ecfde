package ganesha

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
)

// A Rule lets the clients of one prefix in.
type Rule struct {
	Client  netip.Prefix // masked; IPv6 up to /99 or /128, since Ganesha reads two digits only
	Level   Level
	Squash  Squash
	AnonUID uint32 // squashed users become this one; 0 is root
	AnonGID uint32
	Sec     Sec // 0 is sys
}

// A Level is what a rule's clients may do.
type Level string

// A Squash says which users are mapped to the anonymous one.
type Squash string

// A Sec is a set of security flavours of RPC (RFC 5531, RFC 7861). Whoever uses
// another is told NFS4ERR_WRONGSEC, also where it lists the directory that the
// export is in. A gateway has no keytab: with Kerberos alone nobody comes in.
type Sec uint8

// NoID is a uid and gid that nobody can have: to the kernel it says that all
// stays as it is (setfsuid(2), setresuid(2)), and a Ganesha that is to become it
// stays root (seen with 4.3 and 6.5: files of squashed users belong to root).
// As a client's own it is refused by Ganesha's RPC.
const NoID = 1<<32 - 1

// The levels and squashes.
const (
	ReadOnly  Level = "ro"
	ReadWrite Level = "rw"
	barred    Level = "barred" // of a stand-in

	SquashNone   Squash = "none"
	SquashRoot   Squash = "root"
	SquashRootID Squash = "root_id"
	SquashAll    Squash = "all"
)

// The flavours.
const (
	SecSys Sec = 1 << iota
	SecKrb5
	SecKrb5i
	SecKrb5p
)

// A Refusal says why a rule is not in force. In its place nobody is let in:
// clients that it is about are not met by a later rule, which may give more.
type Refusal struct {
	Rule int // index in Export.Rules
	Err  error
}

func (v Versions) renderRule(b *strings.Builder, r Rule) error {
	w, err := v.words(r)
	if err != nil {
		return err
	}
	clients, err := clientTokens(r.Client)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, `	CLIENT {
		Clients = %s;
		Protocols = %s;
		Transports = TCP;
		SecType = %s;
		Access_Type = %s;
		Squash = %s;
		Anonymous_Uid = %d;
		Anonymous_Gid = %d;
	}
`, strings.Join(clients, ", "), v.protocols(), w.sec, w.access, w.squash, r.AnonUID, r.AnonGID)
	return nil
}

// clientTokens writes a prefix as Ganesha's lexer reads it: a length is one or
// two digits and does not begin with 0. So a single address has none, all
// addresses are two halves ("0.0.0.0" alone would let IPv6 in too), and IPv6
// lengths from 100 to 127 cannot be written.
func clientTokens(p netip.Prefix) ([]string, error) {
	ps, err := split(p)
	if err != nil {
		return nil, err
	}
	tokens := make([]string, len(ps))
	for i, p := range ps {
		tokens[i] = p.String()
		if p.IsSingleIP() {
			tokens[i] = p.Addr().String()
		}
	}
	return tokens, nil
}

// split returns the prefixes that Ganesha will list for p.
func split(p netip.Prefix) ([]netip.Prefix, error) {
	switch {
	case !p.IsValid(), p != p.Masked(), p.Addr().Zone() != "":
		return nil, fmt.Errorf("client %s is not a prefix without host bits", p)
	case p.Addr().Is4In6():
		return nil, fmt.Errorf("client %s: write an IPv4 prefix as such", p)
	case p.Addr().Is6() && p.Bits() > 99 && p.Bits() < 128:
		return nil, fmt.Errorf("client %s: ganesha reads IPv6 prefixes up to /99, and single addresses", p)
	case p.Bits() > 0:
		return []netip.Prefix{p}, nil
	case p.Addr().Is4():
		return []netip.Prefix{netip.PrefixFrom(p.Addr(), 1), netip.MustParsePrefix("128.0.0.0/1")}, nil
	}
	return []netip.Prefix{netip.PrefixFrom(p.Addr(), 1), netip.MustParsePrefix("8000::/1")}, nil
}

// standIn keeps the clients of a rule that cannot be in force from every later
// one. A prefix that cannot be written it widens to one that can; without any
// the rule is about nobody.
func standIn(r Rule) (Rule, bool) {
	p := netip.PrefixFrom(r.Client.Addr().Unmap().WithZone(""), r.Client.Bits())
	if r.Client.Addr().Is4In6() {
		p = netip.PrefixFrom(p.Addr(), max(0, r.Client.Bits()-96))
	}
	if p.Addr().Is6() && p.Bits() > 99 && p.Bits() < 128 {
		p = netip.PrefixFrom(p.Addr(), 99)
	}
	return Rule{Client: p.Masked(), Level: barred, Squash: SquashRoot, AnonUID: 65534, AnonGID: 65534}, p.IsValid()
}

// able is e as it can be in force: without the rules that cannot be written or
// that the running Ganesha refused, and with a stand-in for each.
func (g *Gateway) able(e Export) (Export, []Refusal) {
	g.mu.Lock()
	vetoes := map[Rule]error{}
	for v, err := range g.vetoes {
		if v.export == e.ID {
			vetoes[v.rule] = err
		}
	}
	g.mu.Unlock()
	var refused []Refusal
	var rules []Rule
	for i, r := range e.Rules {
		err := vetoes[r]
		if err == nil {
			err = g.o.Versions.renderRule(&strings.Builder{}, r)
		}
		if err == nil {
			rules = append(rules, r)
			continue
		}
		refused = append(refused, Refusal{i, err})
		if r, ok := standIn(r); ok {
			rules = append(rules, r)
		}
	}
	e.Rules = rules
	return e, refused
}

// mostTrials bounds the search for rules that Ganesha refuses. What is not
// found out by then counts as refused until the next search.
const mostTrials = 64

// sift finds the rules for which Ganesha refuses an export, and puts it without
// them. try puts the export with the rules that the running Ganesha has not
// refused yet. Rules that it has already are not suspected, so that nobody
// whom they let in is shut out during the search.
func (g *Gateway) sift(e Export, has map[Rule]bool, why error, try func() error) error {
	var suspects []Rule
	for _, r := range e.Rules {
		if !has[r] && r.Level != barred {
			suspects = append(suspects, r)
		}
	}
	if len(suspects) == 0 {
		return why
	}
	g.veto(e.ID, suspects, why)
	if err := try(); err != nil {
		g.acquit(e.ID, suspects)
		if errors.Is(err, ErrRefused) {
			return why // it is not the rules
		}
		return err
	}
	pending := halves(suspects)
	for trials := 0; len(pending) > 0 && trials < mostTrials; trials++ {
		rules := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		g.acquit(e.ID, rules)
		err := try()
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrRefused) {
			g.acquit(e.ID, suspects) // nobody knows: the next Put begins anew
			return err
		}
		g.veto(e.ID, rules, err)
		pending = append(pending, halves(rules)...)
	}
	return try() // the last trial may have been one that was refused
}

func halves(rules []Rule) [][]Rule {
	if len(rules) < 2 {
		return nil
	}
	return [][]Rule{rules[len(rules)/2:], rules[:len(rules)/2]}
}

// A veto is a rule of an export that Ganesha refused.
type veto struct {
	export uint16
	rule   Rule
}

func (g *Gateway) veto(export uint16, rules []Rule, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.vetoes == nil {
		g.vetoes = map[veto]error{}
	}
	for _, r := range rules {
		g.vetoes[veto{export, r}] = why
	}
}

func (g *Gateway) acquit(export uint16, rules []Rule) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range rules {
		delete(g.vetoes, veto{export, r})
	}
}

// forgive forgets what was refused of an export that goes.
func (g *Gateway) forgive(export uint16) {
	g.mu.Lock()
	defer g.mu.Unlock()
	maps.DeleteFunc(g.vetoes, func(v veto, _ error) bool { return v.export == export })
}

// forgiveAll forgets what an earlier Ganesha refused.
func (g *Gateway) forgiveAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.vetoes = nil
}

// ruleWords are one rule's settings in Ganesha's words and bits.
type ruleWords struct {
	access, squash, sec string
	options             uint32
}

func (v Versions) words(r Rule) (ruleWords, error) {
	w := ruleWords{options: v.option() | bitTCP}
	switch r.Level {
	case barred:
		w.access = "None"
	case ReadOnly:
		w.access = "RO"
		w.options |= bitRead | bitMetaRead
	case ReadWrite:
		w.access = "RW"
		w.options |= maskAccess
	default:
		return w, fmt.Errorf("level %q is unknown", r.Level)
	}
	switch r.Squash {
	case SquashNone:
		w.squash = "no_root_squash"
	case SquashRoot:
		w.squash = "root_squash"
		w.options |= bitRootSquash
	case SquashRootID:
		w.squash = "root_id_squash"
		w.options |= bitRootIDSquash
	case SquashAll:
		w.squash = "all_squash"
		w.options |= bitAllSquash
	default:
		return w, fmt.Errorf("squash %q is unknown", r.Squash)
	}
	if r.AnonUID == NoID || r.AnonGID == NoID {
		return w, fmt.Errorf("anonymous %d:%d would be root", r.AnonUID, r.AnonGID)
	}
	var names []string
	for _, f := range flavours {
		if r.Sec&f.sec != 0 || r.Sec == 0 && f.sec == SecSys {
			names = append(names, f.name)
			w.options |= f.bit
		}
	}
	if len(names) == 0 || r.Sec >= SecKrb5p<<1 {
		return w, fmt.Errorf("security flavours %#x are unknown", uint8(r.Sec))
	}
	w.sec = strings.Join(names, ", ")
	return w, nil
}

var flavours = []struct {
	sec  Sec
	name string
	bit  uint32
}{
	{SecSys, "sys", bitAuthSys},
	{SecKrb5, "krb5", bitAuthKrb5},
	{SecKrb5i, "krb5i", bitAuthKrb5i},
	{SecKrb5p, "krb5p", bitAuthKrb5p},
}
