package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// The bench's tenant network: the agent's gateway, the hand-made one and the
// client are three machines on one bridge.
const (
	bridge       = "cwbench"
	handNS       = "cwbench-hand"
	handPrefix   = "10.99.0.3/24"
	handAddress  = "10.99.0.3:2049"
	clientNS     = "cwbench-client"
	clientPrefix = "10.99.0.4/24"
)

// wire makes the bridge, the client's namespace and the hand-made gateway's,
// with what a shell script would use.
func wire(ctx context.Context) error {
	commands := []string{
		"ip link add " + bridge + " type bridge",
		"ip link set " + bridge + " up",
	}
	for _, m := range []struct{ ns, prefix, link string }{
		{handNS, handPrefix, "cwbenchh"},
		{clientNS, clientPrefix, "cwbenchc"},
	} {
		commands = append(commands,
			"ip netns add "+m.ns,
			"ip link add "+m.link+" type veth peer name eth0 netns "+m.ns,
			"ip link set "+m.link+" master "+bridge+" up",
			"ip -n "+m.ns+" link set lo up", // without it Ganesha starts 40 ms later
			"ip -n "+m.ns+" address add "+m.prefix+" dev eth0",
			"ip -n "+m.ns+" link set eth0 up",
		)
	}
	for _, c := range commands {
		if err := run(ctx, strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// unwire removes what wire made, also of a bench that was killed.
func unwire(ctx context.Context) error {
	var errs []error
	for _, ns := range []string{handNS, clientNS} {
		if _, err := os.Stat(netnsPath(ns)); err == nil {
			errs = append(errs, run(ctx, "ip", "netns", "delete", ns))
		}
	}
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		errs = append(errs, run(ctx, "ip", "link", "delete", bridge))
	}
	return errors.Join(errs...)
}

func netnsPath(name string) string { return "/run/netns/" + name }

func run(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
