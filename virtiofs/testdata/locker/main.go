// Locker takes a lock in a guest, where busybox has none of fcntl(2).
//
//	locker flock|posix try|wait|hold FILE
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
