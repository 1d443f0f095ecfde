package vhostuser

import (
	"encoding/binary"
	"os"
	"testing"
)

func TestUsed(t *testing.T) {
	want := func(what string, want bool) {
		t.Helper()
		if got, err := Used(os.Getpid()); got != want || err != nil {
			t.Errorf("%s: used %v, %v", what, got, err)
		}
	}
	want("there are no notes", true)
	f, err := NewInflight()
	if err != nil {
		t.Fatal(err)
	}
	state := &State{}
	begin := func() {
		f.Begin(state, New(SetVringKick, 0))
		f.Begin(state, New(SetVringKick, 1))
		binary.NativeEndian.PutUint16(f.region(0)[8:], 1) // the back-end's version
	}
	begin()
	begin()
	want("queues begun", false)
	f.region(1)[inflightHeader] = 1
	want("a request is in flight", true)
	f.region(1)[inflightHeader] = 0
	want("it was the first, and is answered, but not counted", false)
	binary.NativeEndian.PutUint64(f.region(1)[inflightHeader+inflightEntry+8:], 1)
	want("the second has its number", true)
	begin()
	want("queues begun anew", true)
	if used, err := Used(-1); !used || err == nil {
		t.Errorf("of no process: used %v, %v", used, err)
	}
}
