package virtiofs

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsed(t *testing.T) {
	var p parsed
	doc := func(id, name string) string { return fmt.Sprintf("<domain id='%s'><name>%s</name></domain>", id, name) }
	for range 2 {
		for _, want := range []Instance{{Name: "a", Running: true}, {Name: "b", Running: true}} {
			if got, err := p.instance(doc("1", want.Name)); err != nil || !cmp.Equal(got, want) {
				t.Errorf("%s is %+v, %v", want.Name, got, err)
			}
		}
		if _, err := p.instance("<domain"); err == nil {
			t.Error("half a document is an instance")
		}
	}
	for n := range 2 * maxParsed {
		if _, err := p.instance(doc("2", fmt.Sprint(n))); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.known) > maxParsed {
		t.Errorf("%d documents are remembered", len(p.known))
	}
}
