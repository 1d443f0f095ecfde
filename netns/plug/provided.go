package plug

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"github.com/vishvananda/netlink"

	"github.com/causeway-project/causeway/netns/firewall"
	"github.com/causeway-project/causeway/netns/kernel"
	"github.com/causeway-project/causeway/netns/namespace"
)

// Provided is an interface that somebody else, such as a CNI plugin or Neutron's
// agent, has put into a named namespace of their own. Neither is ever made,
// renamed or removed here, and no sysctl is set. What is set, and removed again,
// is the firewall and whichever of addresses, routes, MTU and MAC the network
// names; addresses and routes of others stay as they are. All of that is done
// inside of the namespace, and so is no plug's part.
type Provided struct {
	Interface string // required: its name in the namespace

	// Owner names who sets this namespace's firewall: two that were given the
	// same namespace are told apart, and the second is refused.
	Owner string // required: 1 to 64 letters, digits, - _ or .
}

const ownerRule = "1 to 64 letters, digits, - _ or ."

var ownerName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (p Provided) validate(o Options) error {
	if !kernel.ValidLinkName(p.Interface) || p.Interface == "lo" {
		return fmt.Errorf("interface %q: no name of a link in the namespace", p.Interface)
	}
	if !ownerName.MatchString(p.Owner) {
		return fmt.Errorf("owner %q: not %s", p.Owner, ownerRule)
	}
	return nil
}

func (p Provided) base(_ context.Context, s *Site) (base, error) {
	ns, err := namespace.Open(s.o.Namespace)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return base{}, fmt.Errorf("namespace %s: is not in %s: whoever provides it must make it first: %w", s.o.Namespace, namespace.Dir, ErrNoNamespace)
	case errors.Is(err, namespace.ErrOther):
		return base{}, fmt.Errorf("namespace %s: %w: %w", s.o.Namespace, ErrNoNamespace, err)
	case err != nil:
		return base{}, err
	}
	defer ns.Close()
	owner, _, err := firewall.Owner(ns)
	if err != nil {
		return base{}, err
	}
	if owner != "" && owner != p.Owner {
		return base{}, fmt.Errorf("namespace %s: its firewall is network %s's: %w", s.o.Namespace, owner, ErrTaken)
	}
	err = kernel.Inside(ns, func(in *netlink.Handle) error {
		l, err := kernel.Link(in, p.Interface)
		if err == nil && l == nil {
			err = fmt.Errorf("interface %s: is not in namespace %s: whoever provides it must make it first: %w", p.Interface, s.o.Namespace, ErrNoNamespace)
		}
		return err
	})
	return base{}, err
}

func (p Provided) observe(_ context.Context, s *Site) ([]string, bool, error) {
	if s.ns == nil {
		return nil, false, nil
	}
	owner, there, err := firewall.Owner(s.ns)
	// Flushed, it has no owner: it may be ours.
	return nil, there && (owner == p.Owner || owner == ""), err
}

func (Provided) observeInside(*Site, *netlink.Handle, netlink.Link) ([]string, error) {
	return nil, nil
}

func (Provided) attach(context.Context, *Site) error { return nil }
func (Provided) open(*Site) error                    { return nil }
func (Provided) await(context.Context, *Site) error  { return nil }
func (Provided) detach(context.Context, *Site) error { return nil }
