package arp

import (
	"bytes"
	"testing"
)

func FuzzParse(f *testing.F) {
	reply := []byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9, 10, 77, 0, 2, 2, 0, 0, 0, 0, 1, 10, 77, 0, 5}
	f.Add(reply)
	f.Add(reply[:27])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, mac, ok := parse(b)
		if !ok {
			return
		}
		if len(mac) != 6 || !m.sender.Is4() || !m.target.Is4() || !bytes.Equal(b[14:18], m.sender.AsSlice()) {
			t.Errorf("% x: %v %v", b, m, mac)
		}
	})
}
