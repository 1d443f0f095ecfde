package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		samples []time.Duration
		want    time.Duration
	}{
		{[]time.Duration{5}, 5},
		{[]time.Duration{9, 1}, 5},
		{[]time.Duration{100, 1, 2}, 2},
		{[]time.Duration{4, 100, 1, 2}, 3},
	} {
		if got := median(tt.samples); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.samples, got, tt.want)
		}
	}
}

func TestOutput(t *testing.T) {
	results := []Result{
		beside("attach", 30*time.Millisecond, 20*time.Millisecond, "by hand").want(1.5),
		beside("export", 30*time.Millisecond, 10*time.Millisecond, "by hand").want(1.5),
		beside("other", 30*time.Millisecond, 10*time.Millisecond, "<by hand>"),
		alone("memory", 61.25, "MB").want(60),
		alone("restart", 1999, "ms").want(2000),
		{Name: "speed", Value: 10, Unit: "MB/s", Better: "higher"},
		Result{Name: "more speed", Value: 10, Unit: "MB/s", Better: "higher"}.want(20),
	}
	var table, lines strings.Builder
	if err := writeTable(&table, results); err != nil {
		t.Fatal(err)
	}
	if err := writeJSON(&lines, results); err != nil {
		t.Fatal(err)
	}
	const wantTable = `measure     value    peer       peer's  ratio  wanted
attach      30 ms    by hand    20      1.5    <= 1.5      ok
export      30 ms    by hand    10      3      <= 1.5      NOT MET
other       30 ms    <by hand>  10      3
memory      61.2 MB                            <= 60 MB    NOT MET
restart     1999 ms                            <= 2000 ms  ok
speed       10 MB/s
more speed  10 MB/s                            >= 20 MB/s  NOT MET
`
	const wantLines = `{"name":"attach","value":30,"unit":"ms","peer":"by hand","peer_value":20,"ratio":1.5,"wanted":1.5,"better":"lower"}
{"name":"export","value":30,"unit":"ms","peer":"by hand","peer_value":10,"ratio":3,"wanted":1.5,"better":"lower"}
{"name":"other","value":30,"unit":"ms","peer":"<by hand>","peer_value":10,"ratio":3,"wanted":null,"better":"lower"}
{"name":"memory","value":61.25,"unit":"MB","peer":"","peer_value":null,"ratio":null,"wanted":60,"better":"lower"}
{"name":"restart","value":1999,"unit":"ms","peer":"","peer_value":null,"ratio":null,"wanted":2000,"better":"lower"}
{"name":"speed","value":10,"unit":"MB/s","peer":"","peer_value":null,"ratio":null,"wanted":null,"better":"higher"}
{"name":"more speed","value":10,"unit":"MB/s","peer":"","peer_value":null,"ratio":null,"wanted":20,"better":"higher"}
`
	if diff := cmp.Diff(wantTable, regexp.MustCompile(` +\n`).ReplaceAllString(table.String(), "\n")); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(wantLines, lines.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
