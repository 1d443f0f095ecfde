// Package recipe has a Linux guest with systemd mount shares by itself, without
// a guest agent: as cloud-config for cloud-init, and as the files that it writes.
//
// A mount unit for each share is started whenever a virtiofs device comes, at
// boot or while the guest runs, by a udev rule for each. The kernel tells the
// tag of a device from 6.9 on alone, so that every device starts every mount
// that is not there yet; one whose device is still to come fails, and is started
// again with the next. A device that goes leaves a dead mount behind, which a
// service takes off.
package recipe

import (
	"fmt"
	"regexp"
	"strings"
)

// A Mount is a share that the guest is to mount.
type Mount struct {
	Tag      string
	Path     string // in the guest; empty is /mnt/ and the tag
	ReadOnly bool
}

// A File is one that the guest needs.
type File struct {
	Path string
	Text string
}

// What means nothing to systemd's, udev's and the shell's syntax.
var (
	plainTag  = regexp.MustCompile(`^[A-Za-z0-9_@:+,][A-Za-z0-9._@:+,-]*$`)
	plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._@:+,-]+)+$`)
	// The mount(8) that systemd runs takes such sources for block devices.
	deviceTag = regexp.MustCompile(`^(?i:LABEL|UUID|PARTLABEL|PARTUUID|ID)=`)
)

// rule of one mount. MODALIAS is that of virtio device 26, a file system (virtio
// 1.2, 5). When the device is added its driver may not be there yet; when that
// has taken it, the event is "bind". A change is what udevadm trigger makes.
const rule = `ACTION=="add|bind|change", SUBSYSTEM=="virtio", DRIVER=="virtiofs", TAG+="systemd", ENV{SYSTEMD_WANTS}+="%s"
`

const (
	goneRule = `ACTION=="remove", SUBSYSTEM=="virtio", ENV{MODALIAS}=="virtio:d0000001Av*", RUN+="/bin/systemctl --no-block start causeway-virtiofs-gone.service"
`
	// goneService asks each daemon for the size of its file system, and waits 5 s.
	goneService = `[Unit]
Description=Take the mounts of virtiofs devices off that have gone

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'while read -r _ at kind _; do [ "$kind" = virtiofs ] || continue; at=$$(printf %%b "$at"); timeout 5 stat -f "$at" >/dev/null 2>&1 || umount -l "$at"; done </proc/mounts'
`
)

// Files that the guest needs for its mounts.
func Files(mounts []Mount) ([]File, error) {
	files := []File{
		{"/etc/udev/rules.d/80-causeway-gone.rules", goneRule},
		{"/etc/systemd/system/causeway-virtiofs-gone.service", strings.ReplaceAll(goneService, `"$`, `"$$`)},
	}
	for _, m := range mounts {
		if !plainTag.MatchString(m.Tag) || deviceTag.MatchString(m.Tag) {
			return nil, fmt.Errorf("tag %q: only tags of A-Z a-z 0-9 . _ @ : + , - can be written into a guest's units", m.Tag)
		}
		if m.Path == "" {
			m.Path = "/mnt/" + m.Tag
		}
		if !plainPath.MatchString(m.Path) {
			return nil, fmt.Errorf("path %q: only paths of A-Z a-z 0-9 . _ @ : + , - can be written into a guest's units", m.Path)
		}
		unit := escape(m.Path)
		options := "nosuid,nodev"
		if m.ReadOnly {
			options += ",ro"
		}
		files = append(files,
			File{"/etc/systemd/system/" + unit + ".mount", fmt.Sprintf("[Unit]\nDescription=Share %[1]s\n\n[Mount]\nWhat=%[1]s\nWhere=%[2]s\nType=virtiofs\nOptions=%[3]s\nTimeoutSec=30\n", m.Tag, m.Path, options)},
			File{"/etc/udev/rules.d/80-causeway-" + unit + ".rules", fmt.Sprintf(rule, unit+".mount")})
	}
	return files, nil
}

// escape makes a path the name of its unit (systemd.unit(5), "String Escaping
// for Inclusion in Unit Names").
func escape(path string) string {
	path = strings.TrimPrefix(path, "/")
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c == '/':
			b.WriteByte('-')
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == ':', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// commands has the guest notice files that were written after its boot.
var commands = [][]string{
	{"systemctl", "daemon-reload"},
	{"udevadm", "control", "--reload"},
	{"udevadm", "trigger", "--action=change", "--subsystem-match=virtio"},
}

// CloudConfig writes the files as user data for cloud-init.
func CloudConfig(mounts []Mount) (string, error) {
	files, err := Files(mounts)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("#cloud-config\nwrite_files:\n")
	for _, f := range files {
		fmt.Fprintf(&b, "- path: '%s'\n  permissions: '0644'\n  content: |\n", f.Path)
		for line := range strings.Lines(f.Text) {
			if line != "\n" {
				line = "    " + line
			}
			b.WriteString(line)
		}
	}
	b.WriteString("runcmd:\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "- [%s]\n", strings.Join(c, ", "))
	}
	return b.String(), nil
}
