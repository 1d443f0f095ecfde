package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// A rate is one kind of transfer between two answers.
type rate struct {
	Operations float64 `json:"operations_per_second"`
	Bytes      float64 `json:"bytes_per_second"`
	Errors     float64 `json:"errors_per_second"`
	Mean       float64 `json:"mean_seconds"` // of one operation in the gateway
}

// A topLine is one export or client, as busy as it was since the last answer.
type topLine struct {
	At      time.Time `json:"at"`
	Network string    `json:"network"`
	Export  string    `json:"export,omitempty"`
	Client  string    `json:"client,omitempty"`
	Read    rate      `json:"read"`
	Write   rate      `json:"write"`
}

func (l topLine) name() string    { return l.Export + l.Client }
func (l topLine) ops() float64    { return l.Read.Operations + l.Write.Operations }
func (l topLine) bytes() float64  { return l.Read.Bytes + l.Write.Bytes }
func (l topLine) errors() float64 { return l.Read.Errors + l.Write.Errors }
func (l topLine) mean() float64 {
	if l.ops() == 0 {
		return 0
	}
	return (l.Read.Mean*l.Read.Operations + l.Write.Mean*l.Write.Operations) / l.ops()
}

// topOrders are the values of --sort, busiest first.
var topOrders = map[string]func(topLine) float64{
	"ops": topLine.ops, "bytes": topLine.bytes, "latency": topLine.mean, "errors": topLine.errors,
}

func orders() []string { return []string{"ops", "bytes", "latency", "errors"} }

type topOptions struct {
	network  string
	interval time.Duration
	rounds   int
	rows     int
	clients  bool
	sort     string
}

func (c *cli) top(n noun[served]) *cobra.Command {
	o := topOptions{}
	cmd := &cobra.Command{
		Use:   "top [NETWORK]",
		Short: "Show the busiest exports or clients, again and again, until interrupted",
		Long: `Show the busiest exports, or clients, of every gateway or of one, again and
again, until interrupted. Rates are of the time since the last round. Latency
is the mean time of an operation in the gateway; of clients it is not known.
With -o json each line is one object.`,
		Example: `  causeway gateway top --sort bytes
  causeway gateway top blue --clients --rounds 1 -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: n.complete(c, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				o.network = args[0]
			}
			switch {
			case topOrders[o.sort] == nil:
				return usage("sort %q is unknown; use one of %v", o.sort, orders())
			case o.interval < 100*time.Millisecond:
				return usage("interval %s is shorter than 100ms", o.interval)
			case o.rounds < 0 || o.rows < 0:
				return usage("rounds and rows are not negative")
			}
			err := c.with(cmd.Context(), task{doing: "watch gateways", endless: true}, func(ctx context.Context, r remote) error {
				return c.rounds(ctx, r, o)
			})
			if errors.Is(cmd.Context().Err(), context.Canceled) {
				return nil // interrupted: how it ends
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&o.interval, "interval", 2*time.Second, "time between rounds")
	flags.IntVar(&o.rounds, "rounds", 0, "end after so many rounds; 0 goes on")
	flags.IntVar(&o.rows, "rows", 20, "show at most so many; 0 shows all")
	flags.BoolVar(&o.clients, "clients", false, "show clients rather than exports: of each gateway the 256 that were active last")
	flags.StringVar(&o.sort, "sort", "ops", "ops, bytes, latency or errors")
	must(cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(orders(), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// rounds asks, waits, asks again and prints the difference.
func (c *cli) rounds(ctx context.Context, r remote, o topOptions) error {
	req := &nodev1.GatewayStatisticsRequest{Network: o.network}
	if o.clients {
		req.Clients = 256
	}
	ask := func() (*nodev1.GatewayStatisticsResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return r.gateways.Statistics(ctx, req)
	}
	before, err := ask()
	if err != nil {
		return err
	}
	tick := time.NewTicker(o.interval)
	defer tick.Stop()
	for round := 1; ; round++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now, err := ask()
		if err != nil {
			return err
		}
		if err := c.printTop(topLines(before, now, o), o); err != nil || round == o.rounds {
			return err
		}
		before = now
	}
}

// topLines are what changed between two answers, the busiest first. Of a
// gateway that did not answer, or not before, nothing is known.
func topLines(before, now *nodev1.GatewayStatisticsResponse, o topOptions) []topLine {
	was := map[string]*nodev1.GatewayStatistics{}
	for _, g := range before.GetGateways() {
		was[g.GetNetwork()] = g
	}
	var lines []topLine
	for _, g := range now.GetGateways() {
		old := was[g.GetNetwork()]
		if old.GetAt() == nil || g.GetAt() == nil {
			continue
		}
		at := g.GetAt().AsTime()
		seconds := at.Sub(old.GetAt().AsTime()).Seconds()
		if seconds <= 0 {
			continue // the same figures as before
		}
		type key struct{ export, client string }
		type pair struct{ read, write *nodev1.Transfers }
		then := map[key]pair{}
		for _, e := range old.GetExports() {
			then[key{export: e.GetExport()}] = pair{e.GetRead(), e.GetWrite()}
		}
		for _, cl := range old.GetClients() {
			then[key{client: cl.GetAddress()}] = pair{cl.GetRead(), cl.GetWrite()}
		}
		add := func(k key, p pair) {
			b := then[k]
			lines = append(lines, topLine{
				At: at, Network: g.GetNetwork(), Export: k.export, Client: k.client,
				Read: rateOf(b.read, p.read, seconds), Write: rateOf(b.write, p.write, seconds),
			})
		}
		if o.clients {
			for _, cl := range g.GetClients() {
				add(key{client: cl.GetAddress()}, pair{cl.GetRead(), cl.GetWrite()})
			}
			continue
		}
		for _, e := range g.GetExports() {
			add(key{export: e.GetExport()}, pair{e.GetRead(), e.GetWrite()})
		}
	}
	busy := topOrders[o.sort]
	slices.SortFunc(lines, func(x, y topLine) int {
		return cmp.Or(cmp.Compare(busy(y), busy(x)), cmp.Compare(x.Network, y.Network), cmp.Compare(x.name(), y.name()))
	})
	if o.rows > 0 && len(lines) > o.rows {
		lines = lines[:o.rows]
	}
	return lines
}

// rateOf is what came on top. Figures that went back are those of a new
// process, which began at nothing.
func rateOf(before, now *nodev1.Transfers, seconds float64) rate {
	if now.GetOperations() < before.GetOperations() || now.GetBytes() < before.GetBytes() || now.GetErrors() < before.GetErrors() {
		before = nil
	}
	ops := float64(now.GetOperations() - before.GetOperations())
	r := rate{
		Operations: ops / seconds,
		Bytes:      float64(now.GetBytes()-before.GetBytes()) / seconds,
		Errors:     float64(now.GetErrors()-before.GetErrors()) / seconds,
	}
	if ops > 0 {
		r.Mean = max(now.GetTime().AsDuration()-before.GetTime().AsDuration(), 0).Seconds() / ops
	}
	return r
}

// clearScreen goes to the top left of a terminal and empties it (ECMA-48).
const clearScreen = "\x1b[H\x1b[2J"

func (c *cli) printTop(lines []topLine, o topOptions) error {
	if c.output != "table" {
		for _, l := range lines {
			data, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if c.output == "yaml" {
				if data, err = toYAML(data); err != nil {
					return err
				}
				data = append([]byte("---\n"), data...)
			} else {
				data = append(escapeJSON(data), '\n')
			}
			if _, err := c.out.Write(data); err != nil {
				return err
			}
		}
		return nil
	}
	if f, ok := c.out.(*os.File); ok && terminal(f) {
		if _, err := f.WriteString(clearScreen); err != nil {
			return err
		}
	}
	what := "EXPORT"
	if o.clients {
		what = "CLIENT"
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NETWORK\t%s\tREAD/s\tREAD B/s\tWRITE/s\tWRITE B/s\tLATENCY\tERRORS/s\n", what)
	for _, l := range lines {
		latency := ""
		if m := l.mean(); m > 0 {
			latency = time.Duration(m * float64(time.Second)).Round(time.Microsecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%s\t%.1f\t%s\t%s\t%.1f\n", safe(l.Network), safe(l.name()),
			l.Read.Operations, size(l.Read.Bytes), l.Write.Operations, size(l.Write.Bytes), orDash(latency), l.errors())
	}
	fmt.Fprintln(w)
	return w.Flush()
}

func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// size in binary units, for a person.
func size(n float64) string {
	for _, unit := range []string{"", "Ki", "Mi", "Gi"} {
		if n < 1024 {
			return fmt.Sprintf("%.1f %sB", n, unit)
		}
		n /= 1024
	}
	return fmt.Sprintf("%.1f TiB", n)
}
