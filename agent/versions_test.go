package agent

import (
	"errors"
	"slices"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
)

// A host without the parts of NFSv3 refuses a network that asks for it, and an
// update to it, with nothing written.
func TestNFSVersionThatHostLacks(t *testing.T) {
	h := newHost(t)
	h.noNFS3 = true
	n := h.boot(shortDir(t))
	old := blue()
	old.NFSVersions = []model.NFSVersion{model.NFS3, model.NFS41}
	lacks := func(err error) {
		t.Helper()
		var e *fault.Error
		if !errors.As(err, &e) || e.Reason != fault.NoNFSVersion || e.Kind != fault.Precondition {
			t.Errorf("%v, want %s", err, fault.NoNFSVersion)
		}
	}
	_, err := n.PutNetwork(t.Context(), old)
	lacks(err)
	if got := h.String(); got != newHost(t).String() {
		t.Errorf("left on the host: %s", got)
	}
	if _, err := n.PutNetwork(t.Context(), blue()); err != nil {
		t.Fatal(err)
	}
	_, err = n.UpdateNetwork(t.Context(), old, 0)
	lacks(err)
	got, err := n.Network(t.Context(), "blue")
	if err != nil || got.Status.Generation != 1 || slices.Contains(got.NFSVersions, model.NFS3) {
		t.Errorf("network is %+v, %v", got, err)
	}
}
