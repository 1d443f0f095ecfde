package unit

import (
	"math"
	"slices"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"

	"github.com/causeway-project/causeway/agent/process"
)

// forLauncher are the capabilities that it needs to confine itself: mounts and
// namespaces, its root, device files, and to take capabilities away.
func forLauncher() []string {
	return []string{"sys_admin", "sys_chroot", "mknod", "setpcap"}
}

// properties of the unit; systemd.service(5), systemd.exec(5) and
// systemd.resource-control(5) explain each.
func properties(s process.Spec, command []string) ([]systemd.Property, error) {
	p := []systemd.Property{
		systemd.PropDescription(description(s)),
		systemd.PropType("notify"),
		// Not "main": where the launcher starts once more, the second may be
		// ready before systemd has heard of it from the first.
		property("NotifyAccess", "all"),
		systemd.PropExecStart(command, false),
		systemd.PropSlice(slice(s.Name)),
		property("CollectMode", "inactive-or-failed"),
		property("Restart", "no"), // the agent's
		property("KillMode", "control-group"),
		property("TimeoutStartUSec", uint64(30e6)),
		property("TimeoutStopUSec", uint64(10e6)),
		// At shutdown the agent ends first, or it would start again what ends.
		systemd.PropBefore("causeway-agent.service"),
		property("MemoryAccounting", true),
		property("TasksAccounting", true),
		property("MemoryMax", orNone(s.Limits.Memory)),
		property("TasksMax", orNone(s.Limits.Tasks)),
		property("OOMScoreAdjust", int32(-500)), // as the agent's own unit
		property("NoNewPrivileges", true),
		property("LockPersonality", true),
		property("RestrictRealtime", true),
		property("SystemCallArchitectures", []string{"native"}),
		property("RestrictAddressFamilies", families{Allow: true, Names: []string{"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}}),
		property("StandardInput", "null"),
	}
	if s.Limits.Files > 0 {
		p = append(p, property("LimitNOFILE", s.Limits.Files), property("LimitNOFILESoft", s.Limits.Files))
	}
	if s.NetNS != "" {
		p = append(p, property("NetworkNamespacePath", s.NetNS))
	}
	if s.Caps != nil {
		caps := slices.Concat(forLauncher(), s.Caps)
		if s.IDMap != nil {
			caps = append(caps, "setuid", "setgid", "setfcap") // to write the maps of its user namespace: user_namespaces(7)
		}
		mask, err := process.CapabilityMask(caps)
		if err != nil {
			return nil, err
		}
		p = append(p, property("CapabilityBoundingSet", mask))
	}
	return p, nil
}

// families is the type "(bas)" of RestrictAddressFamilies.
type families struct {
	Allow bool
	Names []string
}

func property(name string, v any) systemd.Property {
	return systemd.Property{Name: name, Value: dbus.MakeVariant(v)}
}

// orNone is a limit as systemd has it.
func orNone(n uint64) uint64 {
	if n == 0 {
		return math.MaxUint64
	}
	return n
}
