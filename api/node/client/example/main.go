// Example attaches a share to a running instance, and detaches it.
//
// It prints each state that the attachment is in, on a line of its own, waits
// for a line on its input while the instance has the share, and detaches. It
// may be killed at any time and run again.
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"strings"

	"github.com/causeway-project/causeway/api/node/client"
	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

func main() {
	a := &nodev1.Attachment{}
	flag.StringVar(&a.Id, "id", "", "of the attachment; INSTANCE-TAG if not")
	flag.StringVar(&a.Instance, "instance", "", "name or UUID (required)")
	source := flag.String("source", "", "KIND:SOURCE (required)")
	flag.StringVar(&a.Tag, "tag", "", "what the guest mounts (required)")
	flag.StringVar(&a.MountAt, "mount-at", "", "path in the guest")
	socket := flag.String("socket", os.Getenv("CAUSEWAY_SOCKET"), "of the agent")
	flag.Parse()
	if flag.NArg() > 0 || a.Instance == "" || *source == "" || a.Tag == "" {
		flag.Usage()
		os.Exit(2)
	}
	kind, name, _ := strings.Cut(*source, ":")
	a.Connection = &nodev1.Connection{BackendKind: kind, Source: name}
	a.Id = cmp.Or(a.Id, a.Instance+"-"+a.Tag)
	if err := run(context.Background(), *socket, a); err != nil {
		os.Exit(explain(err))
	}
}

// explain returns the exit code: 5 where the same command may succeed later.
func explain(err error) int {
	var e *client.Error
	if !errors.As(err, &e) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "%s: %s\n", cmp.Or(e.Reason, e.Code.String()), e.Message)
	if e.Retryable() {
		return 5
	}
	return 1
}

func run(ctx context.Context, socket string, a *nodev1.Attachment) error {
	agent, err := client.New(client.Options{Socket: socket})
	if err != nil {
		return err
	}
	defer func() { _ = agent.Close() }()
	node, err := agent.WaitInSync(ctx)
	if err != nil {
		return err
	}
	fmt.Println("node", node.GetHostname())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, stop := iter.Pull2(agent.Watch(ctx))
	defer stop()
	for { // what was there before is not told
		event, err, _ := next()
		if err != nil {
			return err
		}
		if event.GetType() == nodev1.WatchResponse_TYPE_SYNCED {
			break
		}
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		tell(next, a.GetId())
	}()
	if err = use(ctx, agent, a); err != nil {
		cancel()
	}
	<-told
	return err
}

// use attaches, waits for the user, and detaches.
func use(ctx context.Context, agent *client.Client, a *nodev1.Attachment) error {
	resp, err := agent.Attachments.Attach(ctx, &nodev1.AttachRequest{Attachment: a})
	if err != nil {
		return err
	}
	guest := strings.TrimPrefix(resp.GetAttachment().GetGuest().String(), "GUEST_STATE_")
	fmt.Println("attached", strings.ToLower(guest))
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // its end will do, too
	_, err = agent.Attachments.Detach(ctx, &nodev1.DetachRequest{Id: a.GetId()})
	return err
}

// tell prints each state until the attachment has gone, or the watch ends.
func tell(next func() (*nodev1.WatchResponse, error, bool), id string) {
	last := client.ShareStatus("")
	for {
		event, err, more := next()
		if err != nil || !more {
			return
		}
		a := event.GetAttachment()
		if a.GetId() != id {
			continue
		}
		if event.GetType() == nodev1.WatchResponse_TYPE_DELETED {
			fmt.Println("gone")
			return
		}
		if s := client.ShareStatusOf(a); s != last {
			fmt.Println(s)
			last = s
		}
	}
}
