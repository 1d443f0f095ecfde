package virtiofsd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A flavour is one of the two programs called virtiofsd.
type flavour string

const (
	// flavourC came with QEMU up to 7.2, and takes its settings behind -o.
	flavourC flavour = "c"
	// flavourRust is its successor, a project of its own.
	flavourRust flavour = "rust"
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

// probing is how long a virtiofsd may take to print its help.
const probing = 5 * time.Second

// detect asks a virtiofsd what it is: only the Rust one has --shared-dir. Its
// --print-capabilities names features only in the newer versions.
func detect(ctx context.Context, binary string) (flavour, error) {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	c := exec.CommandContext(ctx, binary, "--help")
	c.WaitDelay = time.Second
	help, err := c.CombinedOutput()
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %w", ErrMissing, err)
	}
	switch {
	case strings.Contains(string(help), "--shared-dir"):
		return flavourRust, nil
	case strings.Contains(string(help), "-o source=PATH"):
		return flavourC, nil
	case err != nil:
		return "", fmt.Errorf("ask %s for its options: %w", binary, err)
	}
	return "", fmt.Errorf("%s: its help is not that of a virtiofsd", binary)
}

// arguments of a virtiofsd that shares source on socket.
//
// Both stay in the foreground, sandbox themselves in namespaces of their own
// with source as their root, show mounts below source as mounts (so that inode
// numbers do not collide), and keep the limit of open files that they are
// started with.
func (f flavour) arguments(source, socket string) []string {
	if f == flavourRust {
		return []string{
			"--socket-path=" + socket,
			"--shared-dir=" + source,
			"--sandbox=namespace",
			"--announce-submounts",
			"--log-level=warn",
			"--rlimit-nofile=0",
		}
	}
	return []string{
		"-f",
		"--socket-path=" + socket,
		"-o", "source=" + escapeOption(source),
		"-o", "sandbox=namespace",
		"-o", "announce_submounts",
		"-o", "log_level=warn",
		"--rlimit-nofile=0",
	}
}

// escapeOption quotes a value for -o: fuse_opt_parse (libfuse, lib/fuse_opt.c,
// which the C daemon carries) ends an option at a comma and takes a backslash
// for an escape.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}
