package virtiofsd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Where virtiofsd is, apart from where QEMU's own description says.
var wellKnown = []string{
	"/usr/libexec/virtiofsd",
	"/usr/lib/virtiofsd",
	"/usr/lib/qemu/virtiofsd",
	"/usr/local/libexec/virtiofsd",
}

// Directories of descriptions of vhost-user programs, the first wins
// (qemu docs/interop/vhost-user.json).
var descriptions = []string{
	"/etc/qemu/vhost-user",
	"/usr/local/share/qemu/vhost-user",
	"/usr/share/qemu/vhost-user",
}

// findBinary looks for virtiofsd as libvirt does: in the descriptions, in the
// order of their file names, and then where distributions put it.
func findBinary(root string) (string, error) {
	var tried []string
	for _, dir := range descriptions {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.json"))
		if err != nil {
			return "", fmt.Errorf("look for virtiofsd: %w", err)
		}
		slices.Sort(files)
		for _, file := range files {
			if binary := described(file); binary != "" {
				tried = append(tried, binary)
			}
		}
	}
	for _, binary := range append(tried, wellKnown...) {
		if executable(filepath.Join(root, binary)) {
			return binary, nil
		}
	}
	return "", fmt.Errorf("%w: not described in %s, and none of %s", ErrMissing,
		strings.Join(descriptions, ", "), strings.Join(wellKnown, ", "))
}

// described returns the binary of one description, empty where it is of
// something else: these files are others', and a broken one is not our trouble.
func described(file string) string {
	doc, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var d struct{ Type, Binary string }
	if json.Unmarshal(doc, &d) != nil || d.Type != "fs" || !filepath.IsAbs(d.Binary) {
		return ""
	}
	return d.Binary
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
