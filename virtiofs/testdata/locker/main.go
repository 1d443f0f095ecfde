// Locker does in a guest what its busybox cannot: locks of fcntl(2), and
// extended attributes.
//
//	locker flock|posix try|wait|hold FILE
//	locker xattr set FILE
//
// It prints "locked", or why it is not; hold tries, and keeps the lock until it
// is killed.
package main

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

func main() {
	kind, how, file := os.Args[1], os.Args[2], os.Args[3]
	if kind == "xattr" {
		if err := syscall.Setxattr(file, "user.a", []byte("b"), 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	if kind == "flock" {
		flags := syscall.LOCK_EX
		if how != "wait" {
			flags |= syscall.LOCK_NB
		}
		err = syscall.Flock(int(f.Fd()), flags)
	} else {
		cmd := syscall.F_SETLK
		if how == "wait" {
			cmd = syscall.F_SETLKW
		}
		err = syscall.FcntlFlock(f.Fd(), cmd, &syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart})
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("locked")
	if how == "hold" {
		time.Sleep(time.Hour)
	}
}
