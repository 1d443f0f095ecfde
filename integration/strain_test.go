package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
	"github.com/causeway-project/causeway/integration/lab"
)

// TestOpenFilesNearLimit walks over more files than virtiofsd may have open. The
// agent says so before the guest fails; then the guest has an error for each
// further file, and nothing else ends; and when the guest has forgotten them, all
// is well again.
func TestOpenFilesNearLimit(t *testing.T) {
	w := theWorld(t)
	ctx := limited(t, 6*time.Minute)
	dir := w.share(t, "many")
	// 4096 is the least that an attachment may ask for.
	for name, count := range map[string]int{"most": 3500, "more": 1000} {
		makeFiles(t, filepath.Join(dir, name), count)
	}
	n := w.started(ctx, t, lab.AgentOptions{})
	at := attached("many-vm1", "many")
	at.Tag, at.MountAt = "many", "/mnt/many"
	at.Settings = &nodev1.DeviceSettings{OpenFiles: 4096}
	n.attach(ctx, at)
	status := func(phase nodev1.Phase, reason string) *nodev1.Attachment {
		t.Helper()
		var got *nodev1.Attachment
		until(ctx, t, fmt.Sprintf("the attachment is not %v %q", phase, reason), func() (bool, error) {
			resp, err := n.attachments.Get(ctx, &nodev1.GetAttachmentRequest{Id: at.GetId()})
			got = resp.GetAttachment()
			return err == nil && got.GetStatus().GetPhase() == phase && got.GetStatus().GetReason() == reason, fmt.Errorf("it is %v: %w", got, err)
		})
		return got
	}
	// walk looks at each file of a directory, and counts those that it may not.
	walk := func(name string) (refused int, said string) {
		t.Helper()
		out := n.in(ctx, "stat -c %n /mnt/many/"+name+"/* 2>&1 >/dev/null || true")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "Too many open files") {
				refused++
			}
		}
		return refused, out
	}

	if refused, said := walk("most"); refused > 0 {
		t.Fatalf("the guest fails before the limit: %.300s", said)
	}
	got := status(nodev1.Phase_PHASE_DEGRADED, "open_files_near_limit")
	if u := got.GetUsage(); u.GetOpenFilesLimit() != 4096 || u.GetOpenFiles() < 3500 {
		t.Errorf("usage %v", u)
	}
	if line := fmt.Sprintf("causeway_virtiofsd_open_files_limit{attachment=%q} 4096", at.GetId()); !strings.Contains(scrape(ctx, t, n), line) {
		t.Errorf("no metric %s", line)
	}
	// The guest has lost nothing yet, and was told nothing.
	if said := n.in(ctx, "cat /mnt/many/hello"); said != "from many" {
		t.Errorf("the guest reads %q", said)
	}

	refused, said := walk("more")
	if refused == 0 || refused == 1000 {
		t.Errorf("of 1000 files beyond, %d are refused: %.300s", refused, said)
	}
	status(nodev1.Phase_PHASE_DEGRADED, "open_files_near_limit")

	n.in(ctx, "echo 2 > /proc/sys/vm/drop_caches")
	status(nodev1.Phase_PHASE_READY, "")
	if refused, said := walk("more"); refused > 0 {
		t.Errorf("%d files are refused to a guest that has forgotten the others: %.300s", refused, said)
	}
	n.detach(ctx, at.GetId())
	n.finish(ctx)
}

// makeFiles makes a directory of empty files.
func makeFiles(t *testing.T, dir string, count int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// scrape returns the agent's metrics.
func scrape(ctx context.Context, t *testing.T, n *node) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.HTTP+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
