package intent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/ledger"
	"github.com/causeway-project/causeway/agent/model"
)

// An attachment of an agent without settings has what there was then, and the
// call that made it confirms it still.
func TestAttachmentWithoutSettings(t *testing.T) {
	r, err := Decode(ledger.Record{Kind: model.KindAttachment, ID: "docs-vm1", Body: []byte(`{"generation":1,"attachment":{
		"instance":"vm1","instance_uuid":"u","connection":{"kind":"local","source":"docs"},"tag":"docs","mount":"cw-x","alias":"ua-cw-docs-vm1"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	at := r.Attachment
	if d := cmp.Diff(device.Builtin(), at.Settings.Or(device.Builtin())); d != "" || at.IDs.Policy != device.Passthrough || at.Forced {
		t.Errorf("settings (-want +got):\n%s\nids %v, forced %t", d, at.IDs, at.Forced)
	}
	same := model.Attachment{ID: "docs-vm1", Instance: "vm1", Tag: "docs"}
	want := AttachmentOf(same, "u")
	want.Connection = at.Connection
	if what := at.Differs(want); what != "" {
		t.Errorf("the same call differs in its %s", what)
	}
	want.Settings.Cache = device.CacheNever
	if what := at.Differs(want); what != "cache" {
		t.Errorf("with another cache it differs in %q", what)
	}
	want.Settings, want.IDs = device.Settings{}, device.IDs{Policy: device.Squash, UID: 1, GID: 1}
	if what := at.Differs(want); what != "id policy" {
		t.Errorf("with other ids it differs in %q", what)
	}
}
