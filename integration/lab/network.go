package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
)

// A Bridge is a tenant's network: a Linux bridge without addresses of its own.
type Bridge struct{ Name string }

// NewBridge makes one, and sets it up.
func NewBridge(ctx context.Context, name string) (*Bridge, error) {
	if _, err := command(ctx, "ip", "link", "add", name, "type", "bridge"); err != nil {
		return nil, err
	}
	if _, err := command(ctx, "ip", "link", "set", name, "up"); err != nil {
		return nil, err
	}
	return &Bridge{Name: name}, nil
}

// Close removes the bridge.
func (b *Bridge) Close(ctx context.Context) error {
	_, err := command(ctx, "ip", "link", "delete", b.Name)
	return err
}

// A Client is a machine on a bridge that is only a network namespace.
type Client struct {
	Name  string
	NetNS string // path of the namespace
}

// NewClient plugs a namespace into the bridge: eth0, with these addresses. The
// name, of at most 13 bytes, is that of the namespace and of the bridge's port.
func (b *Bridge) NewClient(ctx context.Context, name string, addresses ...netip.Prefix) (*Client, error) {
	c := &Client{Name: name, NetNS: "/run/netns/" + name}
	steps := [][]string{
		{"ip", "netns", "add", name},
		{"ip", "link", "add", "p-" + name, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"ip", "link", "set", "p-" + name, "master", b.Name, "up"},
		{"ip", "-n", name, "link", "set", "lo", "up"},
		{"ip", "-n", name, "link", "set", "eth0", "up"},
	}
	for _, a := range addresses {
		step := []string{"ip", "-n", name, "address", "add", a.String(), "dev", "eth0"}
		if a.Addr().Is6() {
			step = append(step, "nodad")
		}
		steps = append(steps, step)
	}
	for _, step := range steps {
		if _, err := command(ctx, step...); err != nil {
			return nil, fmt.Errorf("client %s: %w", name, err)
		}
	}
	return c, nil
}

// Command runs in the client's network namespace.
func (c *Client) Command(ctx context.Context, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + c.NetNS, "--"}, argv...)...)
}

// Close removes the port and the namespace. The port goes first: the kernel
// takes what is left in a namespace away some time after the name has gone,
// and until then no other client can have it.
func (c *Client) Close(ctx context.Context) error {
	_, port := command(ctx, "ip", "link", "delete", "p-"+c.Name)
	_, namespace := command(ctx, "ip", "netns", "delete", c.Name)
	return errors.Join(port, namespace)
}
