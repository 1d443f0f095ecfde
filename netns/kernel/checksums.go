package kernel

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

// ifreqPointer is struct ifreq of linux/if.h with a pointer in it; the union is
// as long as its longest member, a struct ifmap.
type ifreqPointer struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [24 - unsafe.Sizeof(uintptr(0))]byte
}

// OffloadsChecksums reports whether an interface leaves the checksums of what
// it sends to others. The calling thread is in its namespace.
func OffloadsChecksums(name string) (bool, error) {
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	if err := ethtool(name, &v); err != nil {
		return false, fmt.Errorf("ask %s for checksum offload: %w", name, err)
	}
	return v.data != 0, nil
}

// ComputeChecksums makes the kernel compute them, and with that ends
// segmentation offload, which needs them.
func ComputeChecksums(name string) error {
	on, err := OffloadsChecksums(name)
	if err != nil || !on {
		return err
	}
	if err := ethtool(name, &ethtoolValue{cmd: unix.ETHTOOL_STXCSUM}); err != nil {
		return fmt.Errorf("turn checksum offload of %s off: %w", name, err)
	}
	return nil
}

func ethtool(name string, v *ethtoolValue) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := ifreqPointer{data: unsafe.Pointer(v)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}
