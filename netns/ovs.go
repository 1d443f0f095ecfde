package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// OVS is a veth pair, with one end in the namespace and one a port of an Open
// vSwitch bridge, with the name that Neutron or OVN binds it by.
//
// Not an internal port moved into the namespace: ovs-vswitchd makes those anew
// when it starts, and with its userspace datapath in the host's namespace; the
// veth pair outlives it.
type OVS struct {
	Bridge      string // required: a bridge of Open vSwitch
	InterfaceID string // external_ids:iface-id, 1 to 128 printable bytes; "" where no controller binds the port

	// VLAN is the port's access tag, 1 to 4094. 0 leaves the tag alone: Neutron's
	// agent sets one of its own.
	VLAN int
}

func (p OVS) validate(n Network) error {
	if !linkName(p.Bridge) {
		return fmt.Errorf("open vswitch bridge %q: no name of a link: %w", p.Bridge, ErrInvalid)
	}
	if p.Bridge == n.HostLink {
		return fmt.Errorf("open vswitch bridge %q: is the host link too: %w", p.Bridge, ErrInvalid)
	}
	if len(p.InterfaceID) > 128 {
		return fmt.Errorf("interface id of %d bytes: more than 128: %w", len(p.InterfaceID), ErrInvalid)
	}
	for _, c := range []byte(p.InterfaceID) {
		if c <= ' ' || c >= 0x7f {
			return fmt.Errorf("interface id %q: not printable ASCII without spaces: %w", p.InterfaceID, ErrInvalid)
		}
	}
	return validateTag(p.VLAN)
}

// An ovsBridge is what the database says of a bridge and of our port.
type ovsBridge struct {
	userspace bool // datapath_type netdev
	port      *ovsPort
}

type ovsPort struct {
	here   bool // on the plug's bridge
	tag    int  // 0: none
	trunks bool
	ids    map[string]string
	number int // OpenFlow port; below 1 where the link could not be opened
	fault  string
}

func (p OVS) base(ctx context.Context, s *site) (base, error) {
	b := base{mtu: 1500}
	var err error
	if b.ovs, err = s.h.ovs.look(ctx, p.Bridge, s.n.HostLink); err != nil {
		return base{}, err
	}
	// The bridge's own port is a link of the host.
	if b.link, err = link(s.nl, p.Bridge); err != nil {
		return base{}, err
	}
	if b.link != nil {
		b.mtu = b.link.Attrs().MTU
	}
	return b, nil
}

func (p OVS) ids(n Network) map[string]string {
	ids := map[string]string{"causeway-network": n.Namespace, "attached-mac": n.MAC.String(), "iface-status": "active"}
	if p.InterfaceID != "" {
		ids["iface-id"] = p.InterfaceID
	}
	return ids
}

func (p OVS) observe(_ context.Context, s *site, b base) (drift []string, remains bool, err error) {
	drift, err = s.observeOuter(b)
	remains = s.outer != nil || b.ovs.port != nil
	if err != nil || b.mtu == 0 {
		return drift, remains, err
	}
	name, port := s.n.HostLink, b.ovs.port
	switch {
	case port == nil || !port.here:
		return append(drift, fmt.Sprintf("link %s is not a port of %s", name, p.Bridge)), remains, nil
	case port.number < 1:
		drift = append(drift, fmt.Sprintf("open vswitch does not serve port %s: %s", name, port.fault))
	case p.VLAN != 0 && (port.tag != p.VLAN || port.trunks):
		drift = append(drift, fmt.Sprintf("port %s has the tag %d, not %d alone", name, port.tag, p.VLAN))
	}
	for k, v := range p.ids(s.n) {
		if port.ids[k] != v {
			drift = append(drift, fmt.Sprintf("port %s has external_ids:%s %q, not %q", name, k, port.ids[k], v))
		}
	}
	return drift, remains, nil
}

func (p OVS) observeInside(s *site, b base, in *netlink.Handle, inner netlink.Link) ([]string, error) {
	drift, err := s.observePair(inner)
	if err != nil || !b.ovs.userspace {
		return drift, err
	}
	on, err := offloadsChecksums(Inside)
	if on {
		drift = append(drift, Inside+" inside leaves checksums to a card")
	}
	return drift, err
}

// attach takes the port away before its link is made anew: a port whose link
// changes under it may go on with the old one.
func (p OVS) attach(ctx context.Context, s *site, b base) error {
	port := b.ovs.port
	ok, err := s.intactPair()
	if err != nil {
		return err
	}
	if port != nil && (!ok || !port.here || port.number < 1) {
		if err := s.h.ovs.remove(ctx, s.n.HostLink); err != nil {
			return err
		}
		port = nil
	}
	if !ok {
		if err := s.makePair(b); err != nil {
			return err
		}
	}
	if b.ovs.userspace {
		// A userspace datapath reads frames as a program would, and nothing adds
		// the checksums that the kernel has left out.
		if err := inside(s.ns, func() error { return computeChecksums(Inside) }); err != nil {
			return err
		}
	}
	if err := s.repairOuter(b); err != nil {
		return err
	}
	return s.h.ovs.set(ctx, p, s.n, port != nil)
}

func (p OVS) open(s *site) error { return setUp(s.nl, s.outer) }

// await asks until the port is served; ovs-vsctl has waited for ovs-vswitchd,
// which opens links a little later where it met them too early.
func (p OVS) await(ctx context.Context, s *site, _ *netlink.Handle, _ base) error {
	fault := ""
	err := poll(ctx, kernelWait, func() (bool, error) {
		b, err := s.h.ovs.look(ctx, p.Bridge, s.n.HostLink)
		if err != nil || b.port == nil {
			return false, err
		}
		fault = b.port.fault
		return b.port.number > 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for open vswitch to serve port %s %s: %w", s.n.HostLink, fault, err)
	}
	return nil
}

func (p OVS) detach(ctx context.Context, s *site) error {
	// Where Open vSwitch was uninstalled, its database is nobody's any more.
	if err := s.h.ovs.remove(ctx, s.n.HostLink); err != nil && !errors.Is(err, exec.ErrNotFound) {
		return err
	}
	return deleteLink(s.nl, s.n.HostLink)
}

// A vsctl runs ovs-vsctl(8). It, and not a client of our own for its JSON-RPC
// (RFC 7047): it finds the database and its leader, speaks TLS, knows the
// schema's version, and waits until ovs-vswitchd has done what was written. It
// takes 5 to 10 ms.
type vsctl struct{ command, db string }

func (v vsctl) run(ctx context.Context, args ...string) ([]byte, error) {
	command := v.command
	if command == "" {
		command = "ovs-vsctl"
	}
	all := []string{"--timeout=5"}
	if v.db != "" {
		all = append(all, "--db="+v.db)
	}
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, command, append(all, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: install Open vSwitch (\"apt-get install openvswitch-switch\"): %w", command, errors.Join(err, ErrUnsupported))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if errors.As(err, new(*exec.ExitError)) {
		// Its words differ from version to version: nothing is read out of them.
		return nil, fmt.Errorf("%s: %s (is Open vSwitch running? \"systemctl start openvswitch-switch\"): %w",
			command, strings.Join(strings.Fields(words.String()), " "), errors.Join(err, ErrUnsupported))
	}
	return nil, fmt.Errorf("run %s: %w", command, err)
}

// look reads, in one transaction, the bridge and the port of that name.
func (v vsctl) look(ctx context.Context, bridge, port string) (ovsBridge, error) {
	out, err := v.run(ctx, "--no-wait", "--format=json",
		"--", "--columns=name,datapath_type,ports", "find", "Bridge", "name="+strconv.Quote(bridge),
		"--", "--columns=_uuid,tag,trunks,vlan_mode", "find", "Port", "name="+strconv.Quote(port),
		"--", "--columns=external_ids,ofport,error", "find", "Interface", "name="+strconv.Quote(port))
	if err != nil {
		return ovsBridge{}, err
	}
	b, there, err := parseOVS(out)
	if err != nil {
		return ovsBridge{}, fmt.Errorf("read open vswitch's database: %w", err)
	}
	if !there {
		return ovsBridge{}, fmt.Errorf("open vswitch bridge %s: there is none: make it with \"ovs-vsctl add-br %s\": %w", bridge, bridge, ErrNoBridge)
	}
	return b, nil
}

// set makes the port, unless it is there, and sees to what belongs to it.
func (v vsctl) set(ctx context.Context, p OVS, n Network, there bool) error {
	var args []string
	if !there {
		args = append(args, "--", "add-port", p.Bridge, n.HostLink)
	}
	if p.VLAN != 0 {
		args = append(args, "--", "clear", "Port", n.HostLink, "trunks", "vlan_mode",
			"--", "set", "Port", n.HostLink, "tag="+strconv.Itoa(p.VLAN))
	}
	args = append(args, "--", "set", "Interface", n.HostLink)
	for k, id := range p.ids(n) {
		args = append(args, "external_ids:"+k+"="+strconv.Quote(id))
	}
	if _, err := v.run(ctx, args...); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", n.HostLink, p.Bridge, err)
	}
	return nil
}

// remove is success where there is no such port.
func (v vsctl) remove(ctx context.Context, port string) error {
	if _, err := v.run(ctx, "--", "--if-exists", "del-port", port); err != nil {
		return fmt.Errorf("remove port %s: %w", port, err)
	}
	return nil
}

// parseOVS reads look's answer: three tables, one JSON object each, whose values
// are those of RFC 7047, 5.1. there says whether the bridge is.
func parseOVS(out []byte) (b ovsBridge, there bool, err error) {
	d := json.NewDecoder(bytes.NewReader(out))
	var tables [3]struct {
		Data [][]json.RawMessage `json:"data"`
	}
	for i, columns := range [3]int{3, 4, 3} {
		if err := d.Decode(&tables[i]); err != nil {
			return b, false, err
		}
		for _, row := range tables[i].Data {
			if len(row) != columns {
				return b, false, fmt.Errorf("a row of %d columns, not %d", len(row), columns)
			}
		}
	}
	bridges, ports, interfaces := tables[0].Data, tables[1].Data, tables[2].Data
	if len(bridges) == 0 {
		return b, false, nil
	}
	b.userspace = slot[string](bridges[0][1]) == "netdev"
	if len(ports) == 0 {
		return b, true, nil
	}
	port := &ovsPort{}
	uuid := slot[string](ports[0][0])
	for _, v := range slots(bridges[0][2]) {
		port.here = port.here || slot[string](v) == uuid && uuid != ""
	}
	port.tag = slot[int](ports[0][1])
	port.trunks = len(slots(ports[0][2])) != 0 || slot[string](ports[0][3]) != ""
	if len(interfaces) != 0 {
		port.ids = pairs(interfaces[0][0])
		port.number = slot[int](interfaces[0][1])
		port.fault = slot[string](interfaces[0][2])
	}
	b.port = port
	return b, true, nil
}

// slot is an atom, the value of ["uuid", value], or the first of a set.
func slot[T string | int](v json.RawMessage) (t T) {
	if json.Unmarshal(v, &t) == nil {
		return t
	}
	for _, e := range slots(v) {
		var tagged []json.RawMessage
		if json.Unmarshal(e, &tagged) == nil && len(tagged) == 2 {
			e = tagged[1]
		}
		if json.Unmarshal(e, &t) == nil {
			return t
		}
	}
	var zero T
	return zero
}

// slots are the elements of ["set", [...]]; anything else is a set of one.
func slots(v json.RawMessage) []json.RawMessage {
	var set []json.RawMessage
	var kind string
	var elements []json.RawMessage
	if json.Unmarshal(v, &set) == nil && len(set) == 2 && json.Unmarshal(set[0], &kind) == nil && kind == "set" &&
		json.Unmarshal(set[1], &elements) == nil {
		return elements
	}
	return []json.RawMessage{v}
}

// pairs are those of ["map", [[key, value], ...]].
func pairs(v json.RawMessage) map[string]string {
	var tagged []json.RawMessage
	var list [][2]string
	if json.Unmarshal(v, &tagged) != nil || len(tagged) != 2 || json.Unmarshal(tagged[1], &list) != nil {
		return nil
	}
	out := make(map[string]string, len(list))
	for _, p := range list {
		out[p[0]] = p[1]
	}
	return out
}
