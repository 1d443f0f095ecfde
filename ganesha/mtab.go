package ganesha

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// For every export that it is told of, Ganesha reads /etc/mtab from end to end
// (populate_posix_file_systems in src/FSAL/localfs.c) to learn of file systems
// that it does not know yet. The kernel's table has a line for each export, so
// the start of a gateway with n of them read n*n lines: 1.8 s for a thousand,
// and 1.5 ms for each that was added to them (4.3).
//
// It needs the line of each file system's anchor alone: the anchor comes first,
// and the exports on its file system are found by their device number. So it is
// shown a table of those.
func (g *Gateway) mtab() string { return g.path(confDir, "mtab") }

// writeMtab brings the table that Ganesha sees up to date, before it is told of
// an anchor. A line of one that went meanwhile does no harm: nothing is there.
func (g *Gateway) writeMtab() error {
	if g.o.Mounts == nil {
		return nil
	}
	ids, err := g.knownAnchors()
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, d := range slices.SortedFunc(maps.Keys(ids), func(a, b device) int { return strings.Compare(a.String(), b.String()) }) {
		dir := g.anchorDir(d, ids[d])
		source, fstype, err := g.o.Mounts.Kind(dir)
		if err != nil {
			g.log.Warn("anchor could not be looked at", "device", d.String(), "err", err)
			continue
		}
		fmt.Fprintf(&text, "%s %s %s rw 0 0\n", mtabEscape.Replace(cmp.Or(source, "none")), mtabEscape.Replace(dir), mtabEscape.Replace(fstype))
	}
	return replace(g.mtab(), text.String())
}

// mtabEscape is how getmntent(3) wants a field written.
var mtabEscape = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
