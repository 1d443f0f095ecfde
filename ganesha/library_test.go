package ganesha

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/ganesha/handles"
	"github.com/causeway-project/causeway/integration/needs"
)

// siphash is SipHash-2-4, written for this test from its definition.
func siphash(key [16]byte, data []byte) uint64 {
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	rounds := func(n int) {
		for range n {
			v0, v2 = v0+v1, v2+v3
			v1, v3 = bits.RotateLeft64(v1, 13)^v0, bits.RotateLeft64(v3, 16)^v2
			v0 = bits.RotateLeft64(v0, 32)
			v2, v0 = v2+v1, v0+v3
			v1, v3 = bits.RotateLeft64(v1, 17)^v2, bits.RotateLeft64(v3, 21)^v0
			v2 = bits.RotateLeft64(v2, 32)
		}
	}
	padded := append(bytes.Clone(data), make([]byte, 8-len(data)%8)...)
	padded[len(padded)-1] = byte(len(data))
	for block := padded; len(block) > 0; block = block[8:] {
		m := binary.LittleEndian.Uint64(block)
		v3 ^= m
		rounds(2)
		v0 ^= m
	}
	v2 ^= 0xff
	rounds(4)
	return v0 ^ v1 ^ v2 ^ v3
}

// TestSipHash: appendix A of the paper by Aumasson and Bernstein.
func TestSipHash(t *testing.T) {
	var key [16]byte
	for i := range key {
		key[i] = byte(i)
	}
	if got := siphash(key, key[:15]); got != 0xa129ca6149be45e5 {
		t.Errorf("%x", got)
	}
}

// TestLibrary calls the library as Ganesha's modules do.
func TestLibrary(t *testing.T) {
	needs.Root(t)
	needs.Programs(t, "gcc")
	dir := t.TempDir()
	probe, work := dir+"/probe", dir+"/work"
	command(t, "gcc", "-Wall", "-Werror", "-o", probe, "testdata/handles/probe.c")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", work, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(work, unix.MNT_DETACH) })
	file := work + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var key [16]byte
	copy(key[:], "0123456789abcdef")
	keys := map[string][]byte{"key": key[:], "other": []byte("fedcba9876543210"), "short": key[:15], "long": append(key[:], 'x')}
	for name, k := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), k, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runWith := func(env []string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), probe, args...)
		cmd.Dir, cmd.Env = work, env
		out, err := cmd.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	env := func(key string) []string {
		return handles.Files{Library: library(t), Key: filepath.Join(dir, key), Ready: dir + "/ready"}.Env()
	}
	run := func(key string, args ...string) string {
		t.Helper()
		out, err := runWith(env(key), args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
		return out
	}

	bare, _, err := unix.NameToHandleAt(unix.AT_FDCWD, file, 0)
	if err != nil {
		t.Fatal(err)
	}
	covered := binary.LittleEndian.AppendUint64(nil, 1)
	covered = binary.LittleEndian.AppendUint32(covered, uint32(bare.Type()))
	covered = binary.LittleEndian.AppendUint32(covered, uint32(bare.Size()))
	covered = append(covered, bare.Bytes()...)
	whole := binary.LittleEndian.AppendUint64(bytes.Clone(bare.Bytes()), siphash(key, covered))
	kind, size := fmt.Sprint(bare.Type()), len(whole)

	// The sizes that a caller may offer, and what it is told.
	want := kind + " " + hex.EncodeToString(whole)
	for _, room := range []int{0, 1, 8, 9, size - 1, size, size + 1, 48, 128, 136, 200} {
		w := want
		if room < size {
			w = fmt.Sprintf("errno %d, %d bytes", int(unix.EOVERFLOW), size)
		}
		if got := run("key", "name", fmt.Sprint(room), file); got != w {
			t.Errorf("room for %d bytes: %s, want %s", room, got, w)
		}
	}
	if got, w := run("key", "name", "48", work+"/none"), fmt.Sprintf("errno %d, 48 bytes", int(unix.ENOENT)); got != w {
		t.Errorf("no file: %s, want %s", got, w)
	}

	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	opened, stale := fmt.Sprintf("inode %d", st.Ino), fmt.Sprintf("errno %d", int(unix.ESTALE))
	open := func(what, key, kind string, h []byte, want string) {
		t.Helper()
		if got := run(key, "open", kind, hex.EncodeToString(h)); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	open("whole", "key", kind, whole, opened)
	open("another key", "other", kind, whole, stale)
	open("another type", "key", fmt.Sprint(bare.Type()+1), whole, stale)
	open("bare", "key", kind, bare.Bytes(), stale)
	open("longer", "key", kind, append(bytes.Clone(whole), 0), stale)
	open("too long", "key", kind, append(bytes.Clone(whole), make([]byte, 200)...), stale)
	for i := range whole {
		h := bytes.Clone(whole)
		h[i] ^= 1 << (i % 8)
		open(fmt.Sprintf("byte %d", i), "key", kind, h, stale)
		open(fmt.Sprintf("%d bytes", i), "key", kind, whole[:i], stale)
	}

	// What is missing ends the process before it does anything.
	for name, env := range map[string][]string{
		"no key file": env("none"),
		"short":       env("short"),
		"long":        env("long"),
		"nothing":     {"LD_PRELOAD=" + library(t)},
		"no list":     append(env("key"), "CAUSEWAY_HANDLES_EXPORTS="+dir+"/none"),
		"short list":  append(env("key"), "CAUSEWAY_HANDLES_EXPORTS="+dir+"/key"),
	} {
		out, err := runWith(env, "name", "48", file)
		if err == nil || !strings.HasPrefix(out, "causeway-preload: ") {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if strings.Contains(out, string(key[:8])) {
			t.Errorf("%s: tells the key: %s", name, out)
		}
	}
}
