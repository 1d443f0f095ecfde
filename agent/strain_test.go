package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/causeway-project/causeway/agent/fault"
	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/strain"
	"github.com/causeway-project/causeway/integration/wait"
)

// TestNearLimit: the warning comes and goes with what virtiofsd takes, and the
// attachment stays as it is.
func TestNearLimit(t *testing.T) {
	h := newHost(t)
	h.sample = 5 * time.Millisecond
	a := h.boot(shortDir(t))
	if _, err := a.Attach(t.Context(), docsVM1()); err != nil {
		t.Fatal(err)
	}
	before := h.String()
	look := func(u strain.Usage) {
		h.mu.Lock()
		h.usage = u
		h.mu.Unlock()
	}
	status := func(phase model.Phase, reason fault.Reason) func() bool {
		return func() bool {
			at, err := a.Attachment(t.Context(), "docs-vm1")
			return err == nil && at.Status.Phase == phase && at.Status.Reason == reason
		}
	}
	look(strain.Usage{Files: 820, FilesLimit: 1000, Memory: 5 << 20})
	wait.Until(t, "warned", status(model.Degraded, fault.FilesNearLimit))
	want := `# HELP causeway_virtiofsd_near_limit_total Times that a virtiofsd came to 80 % of a limit.
# TYPE causeway_virtiofsd_near_limit_total counter
causeway_virtiofsd_near_limit_total{limit="files"} 1
# HELP causeway_virtiofsd_open_files Files that an attachment's virtiofsd has open.
# TYPE causeway_virtiofsd_open_files gauge
causeway_virtiofsd_open_files{attachment="docs-vm1"} 820
`
	if err := testutil.CollectAndCompare(a.Collector(), strings.NewReader(want), "causeway_virtiofsd_near_limit_total", "causeway_virtiofsd_open_files"); err != nil {
		t.Error(err)
	}
	look(strain.Usage{Files: 100, FilesLimit: 1000, Memory: 5 << 20})
	wait.Until(t, "the warning ends", status(model.Ready, ""))
	if got := h.String(); got != before {
		t.Errorf("the host has\n%s\nwant\n%s", got, before)
	}
	at, err := a.Attachment(t.Context(), "docs-vm1")
	if err != nil || at.Usage.Files != 100 || at.Usage.FilesLimit != 1000 {
		t.Errorf("usage %+v, %v", at.Usage, err)
	}
}
