package model

import (
	"errors"
	"testing"

	"github.com/causeway-project/causeway/agent/fault"
)

func TestCheckNFSVersions(t *testing.T) {
	for _, good := range [][]NFSVersion{nil, {NFS3}, {NFS42, NFS3}, allNFSVersions} {
		if err := checkNFSVersions(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range [][]NFSVersion{{""}, {"4"}, {"4.3"}, {"3", "3"}, {"4.1", "nfs3"}} {
		var e *fault.Error
		if err := checkNFSVersions(bad); !errors.As(err, &e) || e.Reason != fault.BadNFSVersion {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
