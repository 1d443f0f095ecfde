package process

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// capabilities by their number, as in capabilities(7) without "CAP_".
var capabilities = [...]string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
	"setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
	"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
	"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
	"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
	"checkpoint_restore",
}

// CapabilityMask is the set of capabilities of these names, as the kernel has
// it.
func CapabilityMask(names []string) (uint64, error) {
	var mask uint64
next:
	for _, name := range names {
		for i, c := range capabilities {
			if c == name {
				mask |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("%q is none", name)
	}
	return mask, nil
}

// keep takes all capabilities but those named from this thread, for good: out
// of the bounding set, which is what exec gives to root, and no_new_privs
// closes the way back through files with privileges. Nil keeps all, and takes
// only that way back.
func keep(names []string) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", err)
	}
	if names == nil {
		return nil
	}
	mask, err := CapabilityMask(names)
	if err != nil {
		return err
	}
	// Up to the last that this kernel knows, which may be more than we do.
	for i := uint64(0); ; i++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(i), 0, 0, 0)
		if err == unix.EINVAL {
			break
		}
		if err != nil {
			return os.NewSyscallError("prctl PR_CAPBSET_READ", err)
		}
		if has == 0 || i < 64 && mask&(1<<i) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(i), 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl PR_CAPBSET_DROP", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_CAP_AMBIENT", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&head, &have[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range have {
		half := uint32(mask >> (32 * i))
		have[i].Permitted &= half
		have[i].Effective = have[i].Permitted
		have[i].Inheritable = 0
	}
	return os.NewSyscallError("capset", unix.Capset(&head, &have[0]))
}
