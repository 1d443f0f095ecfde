// Package ovs asks and changes the database of Open vSwitch.
package ovs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// ErrUnavailable: ovs-vsctl is not installed, or did not do what was asked.
var ErrUnavailable = errors.New("open vswitch is not available")

// A Bridge is what the database says of a bridge and of one port.
type Bridge struct {
	Userspace bool  // datapath_type netdev
	Port      *Port // nil where there is none of that name
}

// A Port is one with a single interface of the same name.
type Port struct {
	Here   bool // on that bridge
	Tag    int  // 0: none
	Trunks bool
	IDs    map[string]string // external_ids of the interface
	Number int               // OpenFlow port; below 1 where the link could not be opened
	Fault  string
}

// A Client runs ovs-vsctl(8). It, and not a client of our own for its JSON-RPC
// (RFC 7047): it finds the database and its leader, speaks TLS, knows the
// schema's version, and waits until ovs-vswitchd has done what was written. It
// takes 5 to 10 ms.
type Client struct {
	Command string // path of ovs-vsctl; "" looks for it in PATH
	DB      string // where the database listens, as in "unix:/run/openvswitch/db.sock"; "" leaves it to ovs-vsctl
}

// Run runs ovs-vsctl once, and returns what it printed: ErrUnavailable.
func (c Client) Run(ctx context.Context, args ...string) ([]byte, error) {
	command := c.Command
	if command == "" {
		command = "ovs-vsctl"
	}
	all := []string{"--timeout=5"}
	if c.DB != "" {
		all = append(all, "--db="+c.DB)
	}
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, command, append(all, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	switch {
	case err == nil:
		return out.Bytes(), nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s: install Open vSwitch (\"apt-get install openvswitch-switch\"): %w: %w", command, ErrUnavailable, err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if errors.As(err, new(*exec.ExitError)) {
		// Its words differ from version to version: nothing is read out of them.
		return nil, fmt.Errorf("%s: %s (is Open vSwitch running? \"systemctl start openvswitch-switch\"): %w: %w",
			command, strings.Join(strings.Fields(words.String()), " "), ErrUnavailable, err)
	}
	return nil, fmt.Errorf("run %s: %w", command, err)
}

// Look reads, in one transaction, the bridge and the port of that name. there
// is false, without an error, where the database has no such bridge.
func (c Client) Look(ctx context.Context, bridge, port string) (b Bridge, there bool, err error) {
	out, err := c.Run(ctx, "--no-wait", "--format=json",
		"--", "--columns=name,datapath_type,ports", "find", "Bridge", "name="+strconv.Quote(bridge),
		"--", "--columns=_uuid,tag,trunks,vlan_mode", "find", "Port", "name="+strconv.Quote(port),
		"--", "--columns=external_ids,ofport,error", "find", "Interface", "name="+strconv.Quote(port))
	if err != nil {
		return Bridge{}, false, err
	}
	if b, there, err = parse(out); err != nil {
		return Bridge{}, false, fmt.Errorf("read open vswitch's database: %w", err)
	}
	return b, there, nil
}

// PortOptions are what Add and Set see to.
type PortOptions struct {
	Name   string            // required: of the port and of its link, which is there
	Bridge string            // required
	Tag    int               // access tag; 0 leaves it as it is
	IDs    map[string]string // external_ids of the interface; others stay
}

// Add makes the port in one transaction with all that belongs to it.
func (c Client) Add(ctx context.Context, o PortOptions) error {
	return c.write(ctx, o, "--", "add-port", o.Bridge, o.Name)
}

// Set sees to what belongs to a port that is there.
func (c Client) Set(ctx context.Context, o PortOptions) error { return c.write(ctx, o) }

func (c Client) write(ctx context.Context, o PortOptions, args ...string) error {
	if o.Tag != 0 {
		args = append(args, "--", "clear", "Port", o.Name, "trunks", "vlan_mode",
			"--", "set", "Port", o.Name, "tag="+strconv.Itoa(o.Tag))
	}
	args = append(args, "--", "set", "Interface", o.Name)
	for k, id := range o.IDs {
		args = append(args, "external_ids:"+k+"="+strconv.Quote(id))
	}
	if _, err := c.Run(ctx, args...); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", o.Name, o.Bridge, err)
	}
	return nil
}

// Remove is success where there is no such port.
func (c Client) Remove(ctx context.Context, port string) error {
	if _, err := c.Run(ctx, "--", "--if-exists", "del-port", port); err != nil {
		return fmt.Errorf("remove port %s: %w", port, err)
	}
	return nil
}

// parse reads Look's answer: three tables, one JSON object each, whose values
// are those of RFC 7047, 5.1. there says whether the bridge is.
func parse(out []byte) (b Bridge, there bool, err error) {
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
	b.Userspace = slot[string](bridges[0][1]) == "netdev"
	if len(ports) == 0 {
		return b, true, nil
	}
	port := &Port{}
	uuid := slot[string](ports[0][0])
	for _, v := range slots(bridges[0][2]) {
		port.Here = port.Here || slot[string](v) == uuid && uuid != ""
	}
	port.Tag = slot[int](ports[0][1])
	port.Trunks = len(slots(ports[0][2])) != 0 || slot[string](ports[0][3]) != ""
	if len(interfaces) != 0 {
		port.IDs = pairs(interfaces[0][0])
		port.Number = slot[int](interfaces[0][1])
		port.Fault = slot[string](interfaces[0][2])
	}
	b.Port = port
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
