package virtiofs

import (
	"cmp"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// MaxTag is the length of a tag in bytes: the field "tag" of struct
// virtio_fs_config has 36 (virtio 1.2, 5.11.4), and QEMU refuses more.
const MaxTag = 36

// ValidateTag says why a tag cannot be used: ErrBadTag.
//
// A tag goes through libvirt's XML, QEMU's command line, the guest's mount(8)
// and the guest's /proc/mounts, so it is kept to what all of them pass on
// unchanged: printable ASCII without space. mount(8) takes sources that begin
// with "LABEL=" and the like for names of block devices.
func ValidateTag(tag string) error {
	if tag == "" {
		return fmt.Errorf("%w: it is empty", ErrBadTag)
	}
	if len(tag) > MaxTag {
		return fmt.Errorf("%w: it has %d bytes, and virtiofs allows %d", ErrBadTag, len(tag), MaxTag)
	}
	for i := range len(tag) {
		if c := tag[i]; c <= ' ' || c > '~' {
			return fmt.Errorf("%w %q: byte %d is not a printable ASCII character", ErrBadTag, tag, i+1)
		}
	}
	for _, p := range []string{"LABEL=", "UUID=", "PARTLABEL=", "PARTUUID=", "ID="} {
		if strings.HasPrefix(strings.ToUpper(tag), p) {
			return fmt.Errorf("%w %q: mount(8) takes what begins with %s for a block device", ErrBadTag, tag, p)
		}
	}
	return nil
}

// validate checks a device before it is given to libvirt.
func (d Device) validate() error {
	if err := ValidateTag(d.Tag); err != nil {
		return err
	}
	if !ours(d.Alias) {
		return fmt.Errorf("alias %q: want %s and then letters, digits and . _ -", d.Alias, AliasPrefix)
	}
	if !strings.HasPrefix(d.Socket, "/") {
		return fmt.Errorf("socket %q: not an absolute path", d.Socket)
	}
	for i := range len(d.Socket) {
		if c := d.Socket[i]; c < ' ' || c > '~' {
			return fmt.Errorf("socket %q: byte %d is not a printable ASCII character", d.Socket, i+1)
		}
	}
	return nil
}

// ours tells whether an alias is one that Attach takes: AliasPrefix and then
// letters, digits and . _ -.
func ours(alias string) bool {
	id, ok := strings.CutPrefix(alias, AliasPrefix)
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return ok && id != ""
}

// libvirt takes letters, digits, - and _ in a user's alias (USER_ALIAS_CHARS
// of domain_conf.c). One with a dot it ignores without a word, and then gives
// the device an alias of its own, by which nobody would find it again. So a
// dot is "_d" there, and "_" is "__".
var (
	toLibvirt   = strings.NewReplacer("_", "__", ".", "_d")
	fromLibvirt = strings.NewReplacer("__", "_", "_d", ".")
)

func libvirtAlias(alias string) string { return toLibvirt.Replace(alias) }

// parseAlias undoes libvirtAlias. One with our prefix that it cannot have made
// is nobody's: empty.
func parseAlias(s string) string {
	if !strings.HasPrefix(s, AliasPrefix) {
		return s
	}
	if a := fromLibvirt.Replace(s); ours(a) && libvirtAlias(a) == s {
		return a
	}
	return ""
}

// XML of the device for virDomainAttachDeviceFlags.
//
// There is no <readonly/>: beside a socket libvirt takes it and nothing comes of
// it (9.0 and 11.3), and the guest's own read-only mount enforces nothing. Share
// a read-only mount instead.
func (d Device) XML() (string, error) {
	if err := d.validate(); err != nil {
		return "", err
	}
	fs := libvirtxml.DomainFilesystem{
		AccessMode: "passthrough", // the only one that virtiofs takes
		Driver:     &libvirtxml.DomainFilesystemDriver{Type: "virtiofs", Queue: uint(cmp.Or(d.QueueSize, defaultQueueSize))},
		Source: &libvirtxml.DomainFilesystemSource{
			Mount: &libvirtxml.DomainFilesystemSourceMount{Socket: d.Socket},
		},
		Target: &libvirtxml.DomainFilesystemTarget{Dir: d.Tag},
		Alias:  &libvirtxml.DomainAlias{Name: libvirtAlias(d.Alias)},
	}
	return fs.Marshal()
}

// defaultQueueSize is the request queue's length; QEMU's default of 128 limits
// requests in flight, and libvirt's manual recommends 1024.
const defaultQueueSize = 1024
