package handles

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"testing"
)

func files(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{Library: dir + "/library.so", Key: dir + "/key", Exports: dir + "/identities", Ready: dir + "/ready"}
	if err := os.WriteFile(f.Library, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestKey(t *testing.T) {
	f := files(t)
	prepare := func(want bool) []byte {
		t.Helper()
		fresh, err := f.Prepare(nil)
		if err != nil || fresh != want {
			t.Fatalf("Prepare = %v, %v; want %v", fresh, err, want)
		}
		key := read(t, f.Key)
		if len(key) != keySize || bytes.Equal(key, make([]byte, keySize)) {
			t.Errorf("key %x", key)
		}
		return key
	}
	first := prepare(true)
	if again := prepare(false); !bytes.Equal(first, again) {
		t.Error("the key changed")
	}
	if info, err := os.Stat(f.Key); err != nil || info.Mode() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	for name, damage := range map[string]func() error{
		"short": func() error { return os.Truncate(f.Key, keySize-1) },
		"long":  func() error { return os.WriteFile(f.Key, make([]byte, keySize+1), 0o600) },
		"a link": func() error {
			return errors.Join(os.Rename(f.Key, f.Key+".old"), os.Symlink(f.Key+".old", f.Key))
		},
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if made := prepare(true); bytes.Equal(made, first) {
			t.Errorf("%s: the same key", name)
		}
	}
}

func TestIdentities(t *testing.T) {
	f := files(t)
	if _, err := f.Prepare(map[uint16]uint64{1: 11, 65535: 22}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Set(7, 77), f.Set(1, 0)); err != nil {
		t.Fatal(err)
	}
	got := map[uint16]uint64{}
	data := read(t, f.Exports)
	for id := range len(data) / identitySize {
		if v := binary.NativeEndian.Uint64(data[id*identitySize:]); v != 0 {
			got[uint16(id)] = v
		}
	}
	if len(data) != ids*identitySize || len(got) != 2 || got[7] != 77 || got[65535] != 22 {
		t.Errorf("%d bytes with %v", len(data), got)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(f.Exports, &st); err != nil || st.Blocks*512 >= ids*identitySize/2 {
		t.Errorf("%d blocks, %v; want holes", st.Blocks, err)
	}
	if err := os.Remove(f.Exports); err != nil {
		t.Fatal(err)
	}
	if err := f.Set(7, 78); err == nil {
		t.Error("set in no file")
	}
}

func TestProtected(t *testing.T) {
	f := files(t)
	if err := os.WriteFile(f.Ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Works(); err != nil {
		t.Error(err)
	}
	if _, err := f.Prepare(nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Works(); !errors.Is(err, ErrUnprotected) {
		t.Errorf("works before it ran: %v", err)
	}
	if err := f.Loaded(os.Getpid()); !errors.Is(err, ErrUnprotected) {
		t.Errorf("loaded into this test: %v", err)
	}
	if err := os.Remove(f.Library); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Prepare(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the library: %v", err)
	}
}
