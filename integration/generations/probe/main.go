// Command probe runs in the guest of the tests, and does to a file what busybox
// has no command for.
//
//	probe get-xattr FILE NAME
//	probe set-xattr FILE NAME VALUE
//	probe set-acl FILE UID          the user may read, beside what the mode says
//	probe lock FILE                 by fcntl and by flock, until it is killed; says so
//	probe read-as UID FILE
//	probe write-as UID FILE TEXT
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%q: too few arguments", args)
	}
	switch verb, rest := args[0], args[1:]; {
	case verb == "get-xattr" && len(rest) == 2:
		value := make([]byte, 256)
		n, err := unix.Getxattr(rest[0], rest[1], value)
		if err != nil {
			return err
		}
		fmt.Println(string(value[:n]))
		return nil
	case verb == "set-xattr" && len(rest) == 3:
		return unix.Setxattr(rest[0], rest[1], []byte(rest[2]), 0)
	case verb == "set-acl" && len(rest) == 2:
		uid, err := strconv.ParseUint(rest[1], 10, 32)
		if err != nil {
			return err
		}
		return unix.Setxattr(rest[0], "system.posix_acl_access", readableBy(uint32(uid)), 0)
	case verb == "lock" && len(rest) == 1:
		return lock(rest[0])
	case verb == "read-as" && len(rest) == 2:
		if err := become(rest[0]); err != nil {
			return err
		}
		text, err := os.ReadFile(rest[1])
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(text)
		return err
	case verb == "write-as" && len(rest) == 3:
		if err := become(rest[0]); err != nil {
			return err
		}
		return os.WriteFile(rest[1], []byte(rest[2]), 0o644)
	}
	return fmt.Errorf("%q: no such verb, or not its arguments", args)
}

func become(user string) error {
	uid, err := strconv.Atoi(user)
	if err != nil {
		return err
	}
	return syscall.Setresuid(uid, uid, uid)
}

// readableBy is an access control list as linux/posix_acl_xattr.h has it: the
// owner reads and writes, one other user reads, nobody else does anything.
func readableBy(uid uint32) []byte {
	const undefined = ^uint32(0)
	list := binary.LittleEndian.AppendUint32(nil, 2) // POSIX_ACL_XATTR_VERSION
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{
		{0x01, 6, undefined}, // ACL_USER_OBJ
		{0x02, 4, uid},       // ACL_USER
		{0x04, 0, undefined}, // ACL_GROUP_OBJ
		{0x10, 4, undefined}, // ACL_MASK
		{0x20, 0, undefined}, // ACL_OTHER
	} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.perm)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}

func lock(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return fmt.Errorf("fcntl: %w", err)
	}
	fmt.Println("locked")
	return unix.Pause()
}
