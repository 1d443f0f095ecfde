// Package handles keeps the clients of a gateway from making up file handles.
//
// A file handle names an export and an inode of the file system below, and
// Ganesha believes both. A library that is loaded into ganesha.nfsd, by
// preload/handles.c beside this package, adds codes to each handle under a key
// of the gateway, and lets no handle pass whose codes are not right. What
// exactly it covers, and why that is enough, stands at its top. This package has
// what it needs on the host: the key, and the identities of the exports.
package handles

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of one gateway.
type Files struct {
	Library string // required: path of the library, on the host and in the gateway's root
	Key     string // required: the key's file; handles are good as long as it is there
	Exports string // the identities of the exports, which the gateway reads while it runs; "": its handles are not bound to exports
	Ready   string // required: the gateway makes it, empty when the library is at work, or with the reason why it ended

	// Unsealed lets handles pass that are not bound to an export, as those of
	// NFSv3 cannot be. Those of NFSv4 stay bound, so that they are good before
	// and after.
	Unsealed bool
}

const (
	keySize      = 16
	identitySize = 8
	ids          = 1 << 16
)

// Prepare makes the files for a gateway that starts with these exports: by
// id, a number that no other export had or will have. It says whether the key
// is new; then clients of a gateway that ran before have to mount again.
func (f Files) Prepare(exports map[uint16]uint64) (fresh bool, err error) {
	if _, err := os.Stat(f.Library); err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnprotected, err)
	}
	if fresh, err = f.key(); err != nil {
		return false, fmt.Errorf("key of file handles: %w", err)
	}
	if err := f.identities(exports); err != nil {
		return false, fmt.Errorf("identities of exports: %w", err)
	}
	if err := os.Remove(f.Ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	return fresh, nil
}

// identities makes the file anew, for one that ended may have it mapped still.
// It has holes where there is no export, and takes no memory there.
func (f Files) identities(exports map[uint16]uint64) error {
	if f.Exports == "" {
		return nil
	}
	if err := os.Remove(f.Exports); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w, err := os.OpenFile(f.Exports, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = w.Truncate(ids * identitySize)
	for id, identity := range exports {
		err = errors.Join(err, setIdentity(w, id, identity))
	}
	return errors.Join(err, w.Close())
}

func setIdentity(w *os.File, id uint16, identity uint64) error {
	_, err := w.WriteAt(binary.NativeEndian.AppendUint64(nil, identity), int64(id)*identitySize)
	return err
}

// key makes the key where there is none, or a damaged one.
func (f Files) key() (fresh bool, err error) {
	info, err := os.Lstat(f.Key)
	if err == nil && info.Mode().IsRegular() && info.Size() == keySize {
		return false, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	key := make([]byte, keySize)
	rand.Read(key) // never fails
	return true, write(f.Key, key)
}

// write replaces a file that is whole even if the machine loses its power: a
// key of zeros would be known.
func write(name string, data []byte) error {
	next := name + ".new"
	w, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Set changes the identity of one export of a gateway that runs; 0 makes its
// handles worthless.
func (f Files) Set(id uint16, identity uint64) error {
	if f.Exports == "" {
		return nil
	}
	w, err := os.OpenFile(f.Exports, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(setIdentity(w, id, identity), w.Close())
}

// Env is what ganesha.nfsd needs in its environment.
func (f Files) Env() []string {
	env := []string{
		"LD_PRELOAD=" + f.Library,
		"CAUSEWAY_HANDLES_KEY=" + f.Key,
		"CAUSEWAY_HANDLES_READY=" + f.Ready,
	}
	if f.Exports != "" {
		env = append(env, "CAUSEWAY_HANDLES_EXPORTS="+f.Exports)
	}
	if f.Unsealed {
		env = append(env, "CAUSEWAY_HANDLES_UNSEALED=1")
	}
	return env
}

// ErrUnprotected: the library is not there, or not at work.
var ErrUnprotected = errors.New("file handles are not protected")

// Loaded fails with ErrUnprotected where the process has not loaded the
// library. The dynamic linker leaves out, with no more than a word, what it
// cannot load.
func (f Files) Loaded(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	// The path ends the line, or " (deleted)" does after an upgrade.
	for line := range bytes.Lines(maps) {
		path := strings.TrimSuffix(strings.TrimSpace(string(line)), " (deleted)")
		if filepath.Base(path) == filepath.Base(f.Library) {
			return nil
		}
	}
	return ErrUnprotected
}

// Works fails with ErrUnprotected where the library has not found itself called
// by Ganesha. It looks when the first export is added.
func (f Files) Works() error {
	if _, err := os.Lstat(f.Ready); errors.Is(err, os.ErrNotExist) {
		return ErrUnprotected
	}
	return f.Refusal()
}

// Refusal is ErrUnprotected, with the library's reason, where it ended the
// process that was started last.
func (f Files) Refusal() error {
	// Ganesha can write there, and must not lead the agent elsewhere.
	r, err := os.OpenFile(f.Ready, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	reason := make([]byte, 300)
	n, err := r.Read(reason)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if n > 0 {
		return fmt.Errorf("%w: %s", ErrUnprotected, strings.TrimSpace(strings.ToValidUTF8(string(reason[:n]), "?")))
	}
	return nil
}
