package ganesha

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/causeway-project/causeway/ganesha/nfs3"
)

// ErrVersion: this host lacks what a version of NFS needs.
var ErrVersion = errors.New("version of NFS cannot be served")

// A Version is one of NFS.
type Version string

// The versions.
const (
	NFS3  Version = "3"
	NFS40 Version = "4.0"
	NFS41 Version = "4.1"
	NFS42 Version = "4.2"
)

// Versions are those that a gateway serves; none are DefaultVersions.
type Versions []Version

// DefaultVersions need nothing but TCP 2049, and give back opens and locks
// after a restart within a second of the last client's return. 3 and 4.0 do
// not: see docs/gateways.md.
func DefaultVersions() Versions { return Versions{NFS41, NFS42} }

func (v Versions) orDefault() Versions {
	if len(v) == 0 {
		return DefaultVersions()
	}
	return v
}

// v3 says whether NFSv3 is served, v4 whether any of NFSv4 is.
func (v Versions) v3() bool { return slices.Contains(v, NFS3) }
func (v Versions) v4() bool { return v.minors() != "" }

// minors are the minor versions of NFSv4, as Minor_Versions lists them.
func (v Versions) minors() string {
	var minors []string
	for _, version := range v.orDefault() {
		if minor, ok := strings.CutPrefix(string(version), "4."); ok {
			minors = append(minors, minor)
		}
	}
	slices.Sort(minors)
	return strings.Join(minors, ",")
}

// protocols are the versions as Protocols lists them.
func (v Versions) protocols() string {
	switch {
	case !v.v3():
		return "4"
	case !v.v4():
		return "3"
	}
	return "3,4"
}

// option is protocols in the bits of an export's options.
func (v Versions) option() uint32 {
	var bits uint32
	if v.v3() {
		bits |= bitNFSv3
	}
	if v.v4() {
		bits |= bitNFSv4
	}
	return bits
}

// probe is the version of NFS whose NULL call is made.
func (v Versions) probe() uint32 {
	if v.v4() {
		return 4
	}
	return 3
}

// Ports are those beside TCP 2049 that clients of these versions reach. From
// those of UDP the gateway tells clients that it was started anew.
func (v Versions) Ports() (tcp, udp []uint16) {
	if !v.v3() {
		return nil, nil
	}
	return nfs3.TCPPorts(), nfs3.UDPPorts()
}

// Check says whether the distribution below the root directory system, or the
// host where that is empty, has what these versions need: ErrVersion, with
// what to install.
func (v Versions) Check(system string) error {
	if !v.v3() {
		return nil
	}
	if err := nfs3.Check(system); err != nil {
		return fmt.Errorf("NFSv3: %w: %w", err, ErrVersion)
	}
	built, err := withNFS3(system)
	if err != nil {
		return fmt.Errorf("NFSv3: %w", err)
	}
	if !built {
		return fmt.Errorf("NFSv3: this NFS-Ganesha was built without it: install one that has it: %w", ErrVersion)
	}
	return nil
}

// withNFS3 says whether the daemon's library was built with NFSv3 and its
// locks: it then holds the names of settings that are known to it only so
// (src/support/nfs_read_conf.c).
func withNFS3(system string) (bool, error) {
	is, err := installed(system)
	if err != nil {
		return false, err
	}
	for _, dir := range []string{"/usr/lib/ganesha", "/usr/lib64/ganesha", "/usr/lib/x86_64-linux-gnu/ganesha", "/usr/lib64"} {
		f, err := openBelow(system, path.Join(dir, nfsdLibrary+is.String()))
		if err != nil {
			continue // it lies elsewhere
		}
		defer func() { _ = f.Close() }() // read-only
		text, err := io.ReadAll(f)
		if err != nil {
			return false, err
		}
		return bytes.Contains(text, []byte("\x00MNT_Port\x00")) && bytes.Contains(text, []byte("\x00NLM_Port\x00")), nil
	}
	return true, nil // nobody knows; its log tells at the start
}
