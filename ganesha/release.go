package ganesha

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// All that differs between the releases of Ganesha that are known here, 4.3 of
// Debian 12 and 6.5 of Debian 13, is in this file. One thing is done for both
// in the way of the newer: see quote.

// ErrRelease: the installed Ganesha is none that this package can run.
var ErrRelease = errors.New("release of ganesha is not supported")

// A release is "4.3" as major and minor.
type release struct{ major, minor int }

func (r release) String() string { return fmt.Sprintf("%d.%d", r.major, r.minor) }

func (r release) before(major, minor int) bool {
	return r.major < major || r.major == major && r.minor < minor
}

// The daemon's program, and the shared library that holds all of it.
const (
	nfsdPath    = "/usr/bin/ganesha.nfsd"
	nfsdLibrary = "libganesha_nfsd.so."
)

// installed tells the release below a root directory, or of the host. The
// program needs its library in exactly its own version, which is read from
// the file: to run it would cost 5 ms of each start.
func installed(system string) (release, error) {
	f, err := openBelow(system, nfsdPath)
	if err != nil {
		return release{}, err
	}
	defer func() { _ = f.Close() }() // read-only
	program, err := elf.NewFile(f)
	if err != nil {
		return release{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	libraries, err := program.ImportedLibraries()
	if err != nil {
		return release{}, fmt.Errorf("%s: %w", f.Name(), err)
	}
	for _, l := range libraries {
		if version, ok := strings.CutPrefix(l, nfsdLibrary); ok {
			return parseRelease(version)
		}
	}
	return release{}, fmt.Errorf("%s needs %v, and no %s: %w", f.Name(), libraries, nfsdLibrary, ErrRelease)
}

func openBelow(system, path string) (*os.File, error) {
	if system == "" {
		return os.Open(path)
	}
	return os.OpenInRoot(system, filepath.Join(".", path))
}

func parseRelease(version string) (release, error) {
	var r release
	if n, err := fmt.Sscanf(version, "%d.%d", &r.major, &r.minor); n != 2 || err != nil {
		return release{}, fmt.Errorf("%q: %w", version, ErrRelease)
	}
	if r.major < 4 {
		return release{}, fmt.Errorf("%s is older than 4: %w", r, ErrRelease)
	}
	return r, nil
}

// core is what NFS_CORE_PARAM needs beside what all releases share.
//
// From 6 on Ganesha ends at its start where it may not exempt its threads from
// the throttling of writes to its own disks, prctl(PR_SET_IO_FLUSHER), which
// takes CAP_SYS_RESOURCE. An older one does not know the key, and says so.
func (r release) core() string {
	if r.major < 6 {
		return ""
	}
	return "\tallow_set_io_flusher_fail = true;\n"
}

// refuses says why this release cannot export what Ganesha itself refuses with
// a word that means nothing, or nil: since 5.3 populate_posix_file_systems in
// src/FSAL/localfs.c passes tmpfs over.
func (r release) refuses(path string) error {
	var fs unix.Statfs_t
	if r.before(5, 3) || unix.Statfs(path, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return nil
	}
	return fmt.Errorf("ganesha %s exports no tmpfs", r)
}
