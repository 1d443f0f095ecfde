package writers

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/intent"
	"github.com/causeway-project/causeway/agent/model"
)

var docs = intent.Connection{Kind: "local", Source: "/docs"}

func attachment(locks device.Locks) *intent.Record {
	return &intent.Record{Attachment: &intent.Attachment{Connection: docs, Settings: device.Settings{Locks: locks}}}
}

// TestAdmit: who writes has to meet the locks of the others that write to the same
// share, and of no more.
func TestAdmit(t *testing.T) {
	shared, local := attachment(device.LocksShared), attachment(device.LocksLocal)
	reader := attachment(device.LocksLocal)
	reader.Attachment.ReadOnly = true
	goes := attachment(device.LocksLocal)
	goes.Removing = true
	elsewhere := attachment(device.LocksLocal)
	elsewhere.Attachment.Connection.Source = "/music"
	optioned := attachment(device.LocksLocal)
	optioned.Attachment.Connection.Options = map[string]string{"a": "b"}
	export := &intent.Record{Export: &intent.Export{Connection: docs}} // without rules nobody writes
	for _, c := range []struct {
		name      string
		is        *intent.Record
		old, next *intent.Record
		want      fault.Reason
	}{
		{"two with shared locks", shared, nil, shared, ""},
		{"one with its own locks", shared, nil, local, fault.LocksNotShared},
		{"beside one with its own locks", local, nil, shared, fault.LocksNotShared},
		{"a reader", local, nil, reader, ""},
		{"beside a reader", reader, nil, local, ""},
		{"beside one that goes", goes, nil, local, ""},
		{"of another share", elsewhere, nil, local, ""},
		{"of another share by its options", optioned, nil, local, ""},
		{"beside an export that lets nobody write", export, nil, local, ""},
		{"one that is there", shared, local, local, ""},
		{"beside a network", &intent.Record{Network: &intent.Network{}}, nil, local, ""},
	} {
		all := map[model.Key]*intent.Record{model.AttachmentKey("is"): c.is, model.AttachmentKey("new"): c.next}
		err := Admit(maps.All(all), Change{Key: model.AttachmentKey("new"), Old: c.old, Next: c.next, Now: time.Now()})
		var e *fault.Error
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &e) || e.Reason != c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
