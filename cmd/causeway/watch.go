package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

const allKinds = "" // of a watch

// watch makes the verb for one kind of object, or for all.
func (c *cli) watch(kind string) *cobra.Command {
	what := "every object as it is"
	if kind != allKinds {
		what = kind + "s as they are"
	}
	return &cobra.Command{
		Use:   "watch [ID]...",
		Short: "Print " + what + ", then each change, until interrupted",
		Long: `Print ` + what + `, then each change, until interrupted; with ids,
only of those. With -o json each line is one event, and an event of the type
TYPE_SYNCED ends those that were there before.`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, ids []string) error {
			err := c.with(cmd.Context(), task{doing: "watch", endless: true}, func(ctx context.Context, r remote) error {
				return c.follow(ctx, r, filter{kind: kind, ids: ids})
			})
			if errors.Is(cmd.Context().Err(), context.Canceled) {
				return nil // interrupted: how every watch ends
			}
			return err
		},
	}
}

type filter struct {
	kind string
	ids  []string
}

func (f filter) admits(e event) bool {
	return (f.kind == allKinds || f.kind == e.kind) && (len(f.ids) == 0 || slices.Contains(f.ids, e.id))
}

// follow prints events. Who reads too slowly is cut off by the agent and
// begins again, with all objects: nothing that still holds is missed.
func (c *cli) follow(ctx context.Context, r remote, f filter) error {
	drifts := map[string]int64{} // that were told of, by network
	for resp, err := range r.Watch(ctx) {
		if err != nil {
			return err
		}
		e := eventOf(resp)
		if count, known := drifts[e.id]; !known || e.drift.GetCount() <= count {
			e.drift = nil
		}
		if n := resp.GetNetwork(); n != nil {
			drifts[n.GetId()] = n.GetDrift().GetCount()
		}
		if err := c.printEvent(resp, f, e); err != nil {
			return err
		}
	}
	return nil
}

// An event is a line of a watch.
type event struct {
	kind, id string
	status   *nodev1.Status
	drift    *nodev1.Drift // of a network; nil once it was told
}

func eventOf(r *nodev1.WatchResponse) event {
	switch o := r.GetObject().(type) {
	case *nodev1.WatchResponse_Attachment:
		return event{"attachment", o.Attachment.GetId(), o.Attachment.GetStatus(), nil}
	case *nodev1.WatchResponse_Network:
		return event{"network", o.Network.GetId(), o.Network.GetStatus(), o.Network.GetDrift()}
	case *nodev1.WatchResponse_Export:
		return event{"export", o.Export.GetId(), o.Export.GetStatus(), nil}
	}
	return event{}
}

func (c *cli) printEvent(r *nodev1.WatchResponse, f filter, e event) error {
	synced := r.GetType() == nodev1.WatchResponse_TYPE_SYNCED
	if !synced && !f.admits(e) {
		return nil
	}
	if c.output != "table" {
		data, err := protoJSON(r)
		if err != nil {
			return err
		}
		if c.output == "yaml" {
			if data, err = toYAML(data); err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.out, "---\n%s", data)
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s\n", escapeJSON(data))
		return err
	}
	if synced {
		return nil
	}
	state := phase(e.status)
	if r.GetType() == nodev1.WatchResponse_TYPE_DELETED {
		state = "deleted"
	}
	line := fmt.Sprintf("%s  %-10s  %-20s  %-8s", c.now().Format("15:04:05"), e.kind, safe(e.id), state)
	if e.status.GetReason() != "" {
		line += fmt.Sprintf("  %s: %s", safe(e.status.GetReason()), safe(e.status.GetMessage()))
	}
	if e.drift.GetCount() > 0 {
		line += "  drifted: " + safe(strings.Join(e.drift.GetWhat(), "; "))
	}
	_, err := fmt.Fprintln(c.out, strings.TrimRight(line, " "))
	return err
}
