package nfs3

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// The programs, and the packages that hold them. sm-notify is started by
// rpc.statd, by its path.
const (
	rpcbindProgram = "rpcbind"
	statdProgram   = "rpc.statd"
	notifyProgram  = "sm-notify"
)

// servicesFile tells rpcbind its own port. It is the host's, whosever rpcbind.
const servicesFile = "/etc/services"

// Check says what of the programs is missing below a root directory, or on the
// host where that is empty: ErrMissing, with the package to install.
func Check(system string) error {
	var missing, packages []string
	for _, p := range []struct{ program, of string }{
		{rpcbindProgram, "rpcbind"}, {statdProgram, "nfs-common (nfs-utils elsewhere)"}, {notifyProgram, "nfs-common (nfs-utils elsewhere)"},
	} {
		if program(system, p.program) != "" {
			continue
		}
		missing = append(missing, p.program)
		if len(packages) == 0 || packages[len(packages)-1] != p.of {
			packages = append(packages, p.of)
		}
	}
	if _, err := os.Stat(servicesFile); err != nil {
		missing, packages = append(missing, servicesFile), append(packages, "netbase")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s %w: install %s", strings.Join(missing, " and "), ErrMissing, strings.Join(packages, " and "))
}

// program is the path of a program inside the root directory system, or "".
// Distributions differ in where it lies.
func program(system, name string) string {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin"} {
		path := filepath.Join(dir, name)
		var err error
		if system == "" {
			_, err = os.Stat(path)
		} else {
			var f *os.File
			if f, err = os.OpenInRoot(system, filepath.Join(".", path)); err == nil {
				_ = f.Close() // read-only
			}
		}
		if err == nil {
			return path
		}
	}
	return ""
}
