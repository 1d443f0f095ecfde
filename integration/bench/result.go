package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// A Result is one line of bench.json. Peer, PeerValue and Ratio are of the raw
// operation, measured in the same run, where there is one.
type Result struct {
	Name      string   `json:"name"`
	Value     float64  `json:"value"`
	Unit      string   `json:"unit"`
	Peer      string   `json:"peer"`
	PeerValue *float64 `json:"peer_value"`
	Ratio     *float64 `json:"ratio"`
	Wanted    *float64 `json:"wanted"` // bounds Ratio where there is one, else Value
	Better    string   `json:"better"` // "lower" or "higher"
}

// Met says whether the result is within its bound; one without a bound is.
func (r Result) Met() bool {
	if r.Wanted == nil {
		return true
	}
	bounded := r.Value
	if r.Ratio != nil {
		bounded = *r.Ratio
	}
	if r.Better == "higher" {
		return bounded >= *r.Wanted
	}
	return bounded <= *r.Wanted
}

// alone is a result without a peer.
func alone(name string, value float64, unit string) Result {
	return Result{Name: name, Value: value, Unit: unit, Better: "lower"}
}

// beside is a result with the raw operation's value.
func beside(name string, ours, raw time.Duration, peer string) Result {
	r := besideValue(name, milliseconds(ours), milliseconds(raw), "ms")
	r.Peer = peer
	return r
}

// besideValue is beside for what is not a time.
func besideValue(name string, ours, raw float64, unit string) Result {
	r := alone(name, ours, unit)
	ratio := ours / raw
	r.PeerValue, r.Ratio = &raw, &ratio
	return r
}

func (r Result) want(bound float64) Result {
	r.Wanted = &bound
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// median of at least one sample. Of an even number it is the mean of the two
// in the middle.
func median[T time.Duration | float64](samples []T) T {
	s := slices.Sorted(slices.Values(samples))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// spread is the smallest, the median and the largest, to judge a median by.
func spread(samples []time.Duration) string {
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", milliseconds(slices.Min(samples)),
		milliseconds(median(samples)), milliseconds(slices.Max(samples)))
}

// writeTable prints results for people.
func writeTable(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "measure\tvalue\tpeer\tpeer's\tratio\twanted\t")
	for _, r := range results {
		wanted, verdict := "", ""
		if r.Wanted != nil {
			sign, unit := "<=", ""
			if r.Better == "higher" {
				sign = ">="
			}
			if r.Ratio == nil {
				unit = " " + r.Unit
			}
			wanted = sign + " " + number(r.Wanted) + unit
			if verdict = "ok"; !r.Met() {
				verdict = "NOT MET"
			}
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(&r.Value), r.Unit, r.Peer,
			number(r.PeerValue), number(r.Ratio), wanted, verdict)
	}
	return t.Flush()
}

// number prints three digits that count.
func number(v *float64) string {
	if v == nil {
		return ""
	}
	if *v >= 1000 {
		return strconv.FormatFloat(*v, 'f', 0, 64)
	}
	return strconv.FormatFloat(*v, 'g', 3, 64)
}

// writeJSON prints results for programs, one object a line.
func writeJSON(w io.Writer, results []Result) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, r := range results {
		if err := e.Encode(r); err != nil {
			return err
		}
	}
	return nil
}
