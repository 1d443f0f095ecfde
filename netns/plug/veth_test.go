package plug

import (
	"net"
	"testing"
)

func TestOuterMAC(t *testing.T) {
	for inner, want := range map[string]string{
		"02:77:00:00:00:02": "fe:77:00:00:00:02",
		"fe:77:00:00:00:02": "fe:77:00:00:00:03",
	} {
		mac, err := net.ParseMAC(inner)
		if err != nil {
			t.Fatal(err)
		}
		o := Options{MAC: mac}
		if got := o.outerMAC().String(); got != want {
			t.Errorf("of %s: %s, want %s", inner, got, want)
		}
		if o.MAC.String() != inner {
			t.Errorf("%s was changed to %s", inner, o.MAC)
		}
	}
}
