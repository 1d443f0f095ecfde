package ganesha

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"
)

// The statistics on D-Bus are the same in 4.3 and 6.5
// (src/support/server_stats.c), but for what lies between the first and the
// last element of a client in ShowClients.
const (
	exportStats = "org.ganesha.nfsd.exportstats."
	clientPath  = dbus.ObjectPath("/org/ganesha/nfsd/ClientMgr")
	clientMgr   = "org.ganesha.nfsd.clientmgr."
	clientStats = "org.ganesha.nfsd.clientstats."
)

// A Transfer counts reads or writes since Ganesha began to serve the export or
// the client.
type Transfer struct {
	Ops    uint64
	Errors uint64
	Bytes  uint64
	Time   time.Duration // in Ganesha, all operations together; 0 for clients, of which it is not known
}

func (t *Transfer) add(o Transfer) {
	t.Ops += o.Ops
	t.Errors += o.Errors
	t.Bytes += o.Bytes
	t.Time += o.Time
}

// ExportStats are one export's reads and writes, of all minor versions.
type ExportStats struct {
	ID          uint16
	Read, Write Transfer
}

// ClientStats are one client's.
type ClientStats struct {
	Address     netip.Addr
	Seen        time.Time // its last operation
	Read, Write Transfer
	Compounds   uint64 // NFSv4 requests of any kind
}

// An ioStats is one protocol version's part in GetNFSIO, in wire order.
type ioStats struct {
	ID          uint16
	Protocol    string
	Read, Write struct {
		Requested, Transferred, Total, Errors, Latency, Unused uint64
	}
}

// ExportStats asks Ganesha once for all its exports; those that no client has
// read or written are missing. For a hundred exports it takes a millisecond.
func (g *Gateway) ExportStats(ctx context.Context) ([]ExportStats, error) {
	c, err := g.client(ctx)
	if err != nil {
		return nil, err
	}
	var ok bool
	var message string
	var at []any
	var parts []ioStats
	q := question{path: exportPath, method: exportStats + "GetNFSIO"}
	if err := c.call(ctx, g.limits.look, q, &ok, &message, &at, &parts); err != nil {
		return nil, fmt.Errorf("statistics of exports: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("statistics of exports: %s", short(message))
	}
	byID := map[uint16]*ExportStats{}
	for _, p := range parts {
		if p.ID == 0 || p.ID >= firstAnchor {
			continue
		}
		s := byID[p.ID]
		if s == nil {
			s = &ExportStats{ID: p.ID}
			byID[p.ID] = s
		}
		s.Read.add(Transfer{Ops: p.Read.Total, Errors: p.Read.Errors, Bytes: p.Read.Transferred, Time: time.Duration(p.Read.Latency)})
		s.Write.add(Transfer{Ops: p.Write.Total, Errors: p.Write.Errors, Bytes: p.Write.Transferred, Time: time.Duration(p.Write.Latency)})
	}
	all := make([]ExportStats, 0, len(byID))
	for _, s := range byID {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b ExportStats) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// ClientStats asks for the clients that were active last, at most so many, the
// latest first. Each costs a call of some 0.2 ms. Who has made no
// request that counts is left out.
func (g *Gateway) ClientStats(ctx context.Context, most int) ([]ClientStats, error) {
	c, err := g.client(ctx)
	if err != nil {
		return nil, err
	}
	var at []any
	var list [][]any
	if err := c.call(ctx, g.limits.look, question{path: clientPath, method: clientMgr + "ShowClients"}, &at, &list); err != nil {
		return nil, fmt.Errorf("list clients: %w", err)
	}
	type named struct {
		name string
		ClientStats
	}
	var clients []named
	for _, e := range list {
		if len(e) < 2 {
			continue
		}
		name, _ := e[0].(string)
		addr, err := netip.ParseAddr(name)
		seen := timestamp(e[len(e)-1])
		if err != nil || seen.Unix() == 0 { // the probe's NULL calls do not count
			continue
		}
		clients = append(clients, named{name, ClientStats{Address: addr.Unmap().WithZone(""), Seen: seen}})
	}
	slices.SortFunc(clients, func(a, b named) int { return b.Seen.Compare(a.Seen) })
	var all []ClientStats
	for _, n := range clients[:min(len(clients), max(most, 0))] {
		body, err := c.ask(ctx, g.limits.look, question{path: clientPath, method: clientStats + "GetClientIOops", args: []any{n.name}})
		if err != nil {
			return nil, fmt.Errorf("statistics of client %s: %w", n.Address, err)
		}
		if n.ClientStats.read(body) {
			all = append(all, n.ClientStats)
		}
	}
	return all, nil
}

// read takes the answer of GetClientIOops: whether the client is known, a word
// and a time; then for each protocol version whether there are figures, and if
// so structures of numbers, of which the first three are reads, writes and
// requests.
func (s *ClientStats) read(body []any) bool {
	if len(body) < 3 {
		return false
	}
	if known, _ := body[0].(bool); !known {
		return false
	}
	nth := 0
	for _, part := range body[3:] {
		numbers, ok := part.([]any)
		if !ok {
			nth = 0
			continue
		}
		switch nth++; nth {
		case 1:
			s.Read.add(clientTransfer(numbers))
		case 2:
			s.Write.add(clientTransfer(numbers))
		case 3:
			s.Compounds += number(numbers, 0)
		}
	}
	return true
}

func clientTransfer(n []any) Transfer {
	return Transfer{Ops: number(n, 0), Errors: number(n, 1), Bytes: number(n, 2)}
}

func number(n []any, i int) uint64 {
	if i >= len(n) {
		return 0
	}
	v, _ := n[i].(uint64)
	return v
}

func timestamp(v any) time.Time {
	n, _ := v.([]any)
	return time.Unix(int64(number(n, 0)), int64(number(n, 1)))
}
