// Package hook is libvirt's hook of the QEMU driver, by which the agent hears
// of an instance before its QEMU starts: whether libvirt runs ours, and what a
// call says. https://libvirt.org/hooks.html has the protocol.
package hook

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// A State is how far libvirt runs the hook.
type State string

// The states.
const (
	Missing State = "missing" // there is no such program
	Unread  State = "unread"  // it came after libvirt was started, which looks for hooks then alone
	Active  State = "active"
)

// A Place is where the hook and libvirt are found. Zero fields are those of the
// host's own libvirt.
type Place struct {
	Program string   // /etc/libvirt/hooks/qemu.d/causeway
	PIDs    []string // of the daemon that runs QEMU, written at its start: libvirtd's or virtqemud's
}

// Program is where libvirt finds the hook.
const Program = "/etc/libvirt/hooks/qemu.d/causeway"

func (p Place) orDefault() Place {
	if p.Program == "" {
		p.Program = Program
	}
	if len(p.PIDs) == 0 {
		p.PIDs = []string{"/run/virtqemud.pid", "/run/libvirtd.pid"}
	}
	return p
}

// State looks. libvirt decides at its start whether it has hooks at all
// (virHookInitialize), and what they are at each call; so it is the time at
// which the program came to its place that counts, against the time at which
// libvirt wrote its pid.
//
// Where neither daemon has left a pid the answer is Unread.
func (p Place) State() (State, error) {
	p = p.orDefault()
	info, err := os.Stat(p.Program) // libvirt follows links
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Missing, nil
	case err != nil:
		return Unread, fmt.Errorf("look at libvirt's hook: %w", err)
	case info.Mode().Perm()&0o111 == 0 || !info.Mode().IsRegular():
		return Missing, nil // virFileIsExecutable: libvirt passes it over
	}
	came, err := cameAt(p.Program)
	if err != nil {
		return Unread, err
	}
	for _, pid := range p.PIDs {
		if info, err := os.Stat(pid); err == nil && came.Before(info.ModTime()) {
			return Active, nil
		}
	}
	return Unread, nil
}

// cameAt is when a name was given to its file, or to the link that it is: the
// latter stays what it was when a package replaces the file.
func cameAt(path string) (time.Time, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at libvirt's hook: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime(), nil
	}
	return time.Unix(st.Ctim.Unix()), nil
}

// A Start is an instance of which libvirt is about to start the QEMU.
type Start struct {
	Instance string // name
	UUID     string
	Sockets  []string // that our devices connect to
	User     string   // that QEMU is to run as, where the definition says so
}

// aliasPrefix is virtiofs.AliasPrefix, whose package needs a C library.
const aliasPrefix = "ua-cw-"

// maxDocument is more than any definition has.
const maxDocument = 16 << 20

// ParseStart reads a call of the hook: its arguments without the program's name
// (instance, operation, sub-operation, extra), and the domain's XML from its
// input. Other calls than the one before a start are false, and nothing is read.
func ParseStart(args []string, input io.Reader) (Start, bool, error) {
	if len(args) < 3 || args[1] != "prepare" || args[2] != "begin" {
		return Start{}, false, nil
	}
	var domain struct {
		Name   string `xml:"name"`
		Labels []struct {
			Model string `xml:"model,attr"`
			Label string `xml:"label"`
		} `xml:"seclabel"`
		UUID    string `xml:"uuid"`
		Devices struct {
			Filesystems []struct {
				Driver struct {
					Type string `xml:"type,attr"`
				} `xml:"driver"`
				Source struct {
					Socket string `xml:"socket,attr"`
				} `xml:"source"`
				Alias struct {
					Name string `xml:"name,attr"`
				} `xml:"alias"`
			} `xml:"filesystem"`
		} `xml:"devices"`
	}
	if err := xml.NewDecoder(io.LimitReader(input, maxDocument)).Decode(&domain); err != nil {
		return Start{}, false, fmt.Errorf("parse domain XML: %w", err)
	}
	s := Start{Instance: domain.Name, UUID: domain.UUID}
	for _, l := range domain.Labels {
		if l.Model == "dac" {
			s.User, _, _ = strings.Cut(l.Label, ":")
		}
	}
	for _, f := range domain.Devices.Filesystems {
		if f.Driver.Type == "virtiofs" && strings.HasPrefix(f.Alias.Name, aliasPrefix) {
			s.Sockets = append(s.Sockets, f.Source.Socket)
		}
	}
	return s, true, nil
}
