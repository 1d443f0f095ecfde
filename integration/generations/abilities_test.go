package generations

import (
	"context"
	"os"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// What attachments can, through the agent, with a guest.
var abilities = []finding{
	{"a share is attached, mounted, read, written and detached", func(ctx context.Context, s seat) string {
		connection, dir := s.share("life")
		s.must(os.WriteFile(dir+"/host", []byte("by the host"), 0o644))
		a := s.attach(ctx, &nodev1.Attachment{Id: "life", Connection: connection, MountAt: "/mnt/life"})
		if a.GetGuest() != nodev1.GuestState_GUEST_STATE_MOUNTED {
			s.Errorf("guest is %v, want mounted; status %v", a.GetGuest(), a.GetStatus())
		}
		if got := s.in(ctx, "cat /mnt/life/host; echo by the guest >/mnt/life/guest"); got != "by the host" {
			s.Errorf("the guest reads %q", got)
		}
		if got, err := os.ReadFile(dir + "/guest"); err != nil || string(got) != "by the guest\n" {
			s.Errorf("the host reads %q, %v", got, err)
		}
		return "yes"
	}},
}
