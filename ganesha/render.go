package ganesha

import (
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"math"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/causeway-project/causeway/ganesha/nfs3"
)

// A server is what ganesha.conf says beside the exports.
type server struct {
	Release  release
	StateDir string
	CacheDir string
	Lease    time.Duration
	Grace    time.Duration
	Versions Versions
	NoGrace  bool // nobody can reclaim
}

// renderServer writes everything but the exports.
//
// Protocols stands in NFS_CORE_PARAM, in EXPORT_DEFAULTS and in each CLIENT,
// because each has a default of its own that includes NFSv3, and NFSv3 wants a
// portmapper. Without NLM grace ends as soon as the recorded
// clients have reclaimed; with it, never early; so it is there for NFSv3 alone,
// whose clients find the ports of package nfs3 by rpcbind and name what they
// mount by its pseudo path, as those of NFSv4 do. The heartbeat would wake both
// processes of an idle gateway every second. The cache figures keep a gateway near
// 10 MB; they only work together with the malloc variables in environment.
//
// RPC_Ioq_ThrdMax is how many requests may wait for backends at once: with 8,
// five writes to one file system that hung kept Ganesha from answering anybody.
// A guest has 64 under way at most (Ganesha's slots of a session).
func renderServer(s server) (string, error) {
	recovery, err := quote(s.StateDir)
	if err != nil {
		return "", fmt.Errorf("state directory: %w", err)
	}
	cache, err := quote(s.CacheDir)
	if err != nil {
		return "", fmt.Errorf("cache directory: %w", err)
	}
	lease, err := seconds("lease", s.Lease)
	if err != nil {
		return "", err
	}
	grace, err := seconds("grace", s.Grace)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Rendered by causeway-agent at each start of the gateway. Changes are lost.
NFS_CORE_PARAM {
	Protocols = %s;
	NFS_Port = 2049;
%s	Enable_RQUOTA = false;
	Enable_UDP = false;
	Clustered = false;
	RPC_Ioq_ThrdMax = 128;
	heartbeat_freq = 0;
%s}
NFSv4 {
%s	Lease_Lifetime = %d;
	Grace_Period = %d;
	RecoveryBackend = fs;
	RecoveryRoot = %s;
	Only_Numeric_Owners = true;
}
NFS_KRB5 {
	Active_krb5 = false;
	KeytabPath = /nonexistent;
	CCacheDir = %s;
}
MDCACHE {
	Entries_HWMark = 5000;
	NParts = 1;
	Cache_Size = 4093;
}
EXPORT_DEFAULTS {
	Protocols = %s;
	Transports = TCP;
	SecType = sys;
	Access_Type = None;
	Squash = root_squash;
}
`, s.Versions.protocols(), s.Versions.lockManager(), s.Release.core(), s.Versions.minorVersions()+s.graceless(), lease, grace, recovery, cache, s.Versions.protocols())
	return b.String(), nil
}

// lockManager is what NFS_CORE_PARAM says of NFSv3's other protocols.
func (v Versions) lockManager() string {
	if !v.v3() {
		return "\tEnable_NLM = false;\n"
	}
	return fmt.Sprintf("\tMNT_Port = %d;\n\tNLM_Port = %d;\n\tEnable_NLM = true;\n\tmount_path_pseudo = true;\n", nfs3.MountPort, nfs3.LockPort)
}

// minorVersions is what NFSv4 says of them; NFSv3 alone has none.
func (v Versions) minorVersions() string {
	if !v.v4() {
		return ""
	}
	return "\tMinor_Versions = " + v.minors() + ";\n"
}

// graceless leaves grace out where the lock manager would make everybody wait
// to its end for nobody. Without a lock manager Ganesha sees that itself.
func (s server) graceless() string {
	if !s.NoGrace || !s.Versions.v3() {
		return ""
	}
	return "\tGraceless = true;\n"
}

func seconds(what string, d time.Duration) (int64, error) {
	if d < 2*time.Second || d%time.Second != 0 {
		return 0, fmt.Errorf("%s %s: want whole seconds, at least 2", what, d)
	}
	return int64(d / time.Second), nil
}

// renderExport writes one EXPORT block, the same for ganesha.conf and for
// AddExport and UpdateExport. What it cannot write so that Ganesha reads
// exactly that back it refuses with ErrRefused.
//
// What EXPORT_DEFAULTS say is not said again: Ganesha 4.3 compares each word of
// its configuration with all different ones before it (save_token in
// src/config_parsing/analyse.c), so that each takes longer than the last, and
// eight words fewer took a sixth off the start of a thousand exports. But that
// nobody is let in stands in each.
//
// Filesystem_Id is the same for all files of the export whatever lies below,
// so that two directories of one local file system are two file systems to a
// client. The tag says what DisplayExport does not show otherwise: see tag.
func (v Versions) renderExport(e Export) (string, error) {
	if e.ID == 0 {
		return "", refuse(e.ID, "id 0 is the pseudo root")
	}
	// Ganesha refuses the largest number, and 0.0 is no file system to a client.
	if e.FSID == 0 || e.FSID == math.MaxUint64 {
		return "", refuse(e.ID, fmt.Sprintf("file system id %d is reserved", e.FSID))
	}
	p, err := quotePath(e.Path)
	if err != nil {
		return "", refuse(e.ID, "path: "+err.Error())
	}
	pseudo, err := quotePath(e.Pseudo)
	if err != nil {
		return "", refuse(e.ID, "pseudo path: "+err.Error())
	}
	var b strings.Builder
	fmt.Fprintf(&b, `EXPORT {
	Export_Id = %d;
	Path = %s;
	Pseudo = %s;
	Tag = %s;
	Filesystem_Id = %d.0;
	Access_Type = None;
`, e.ID, p, pseudo, tag(e), e.FSID)
	for i, r := range e.Rules {
		if err := v.renderRule(&b, r); err != nil {
			return "", refuse(e.ID, fmt.Sprintf("rule %d: %v", i+1, err))
		}
	}
	b.WriteString("\tFSAL { Name = VFS; }\n}\n")
	return b.String(), nil
}

// tag is read back by DisplayExport, which shows the path in place of the
// pseudo path and no file system id at all. It differs where either does, and
// UpdateExport, which ignores a changed pseudo path, refuses a changed tag.
// It begins with the id because no two exports may have the same tag.
func tag(e Export) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%d", e.Pseudo, e.FSID)
	return fmt.Sprintf("cw-%d-%016x", e.ID, h.Sum64())
}

// maxPath is PATH_MAX without the closing NUL.
const maxPath = 4095

// quotePath quotes an absolute, clean path other than the root.
func quotePath(p string) (string, error) {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" {
		return "", fmt.Errorf("%s is not an absolute path without \".\", \"..\" or empty parts", short(p))
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		if len(part) > 255 {
			return "", fmt.Errorf("%s has a part above 255 bytes", short(p))
		}
	}
	return quote(p)
}

// quote makes s one value of Ganesha's configuration, or refuses. Between
// double quotes a backslash takes the next character as it is, so that it and
// the quote itself can be written. A backslash at the end cannot: the lexer
// takes the longest match, and would read on to the next quote. Single quotes,
// between which nothing is special, are of no use: since 6.1 they stay part of
// the value (save_token in src/config_parsing/analyse.c). Control characters
// would pass, yet end lines in logs; what is no UTF-8 cannot be sent over
// D-Bus.
func quote(s string) (string, error) {
	if s == "" || len(s) > maxPath {
		return "", fmt.Errorf("%s has %d bytes, want 1 to %d", short(s), len(s), maxPath)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%s is not UTF-8", short(s))
	}
	if strings.ContainsFunc(s, unprintable) {
		return "", fmt.Errorf("%s has control characters", short(s))
	}
	if strings.HasSuffix(s, `\`) {
		return "", fmt.Errorf("%s ends with a backslash", short(s))
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`, nil
}

// unprintable includes the separators of lines and paragraphs, and the marks
// that turn the direction of text around in a log.
func unprintable(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// short quotes the beginning of s for a message.
func short(s string) string {
	const limit = 80
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}

func refuse(id uint16, why string) error {
	return fmt.Errorf("export %d: %s: %w", id, why, ErrRefused)
}

// renderBus writes the configuration of the gateway's private bus. The last
// matching rule wins: nobody may connect, then root may.
func renderBus(socket string) string {
	var address strings.Builder
	if err := xml.EscapeText(&address, []byte(busAddress(socket))); err != nil {
		panic(err) // a strings.Builder takes everything
	}
	return `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<!-- Rendered by causeway-agent at each start of the gateway. -->
<busconfig>
  <type>system</type>
  <listen>` + address.String() + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <deny user="*"/>
    <allow user="root"/>
    <allow own="` + busName + `"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
</busconfig>
`
}

// busAddress writes a socket's path as a D-Bus address, where all but a few
// characters are escaped (D-Bus specification, "Server Addresses").
func busAddress(socket string) string {
	var b strings.Builder
	b.WriteString("unix:path=")
	for _, c := range []byte(socket) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte(`-_/.\*`, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}
