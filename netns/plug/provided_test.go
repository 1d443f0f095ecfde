package plug

import (
	"strings"
	"testing"
)

func TestProvidedOwner(t *testing.T) {
	for owner, sound := range map[string]bool{
		"blue": true, "my-net_1.a": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\n": false, "a/b": false, "блакитний": false, "a\x00": false,
	} {
		o := Options{Plug: Provided{Interface: "eth0", Owner: owner}}
		if err := o.Validate(); (err == nil) != sound || err != nil && !strings.HasSuffix(err.Error(), "not 1 to 64 letters, digits, - _ or .") {
			t.Errorf("%q: %v", owner, err)
		}
	}
}
