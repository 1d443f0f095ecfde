package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// share in the form that --source takes.
func share(c *nodev1.Connection) string {
	return c.GetBackendKind() + ":" + c.GetSource()
}

func options(c *nodev1.Connection) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(c.GetOptions())) {
		all = append(all, k+"="+c.GetOptions()[k])
	}
	return lines(all)
}

// lines makes one cell of several; each is safe on its own, so that a newline
// within one cannot pass for the next.
func lines(all []string) string {
	safes := make([]string, len(all))
	for i, s := range all {
		safes[i] = safe(s)
	}
	return strings.Join(safes, "\n")
}

func phase(s *nodev1.Status) string { return word(s.GetPhase(), "PHASE_") }

func statusDetail[T any](of func(T) *nodev1.Status) []column[T] {
	return []column[T]{
		{"Phase", func(t T) string { return phase(of(t)) }},
		{"Since", func(t T) string { return stamp(of(t).GetSince()) }},
		{"Reason", func(t T) string { return of(t).GetReason() }},
		{"Message", func(t T) string { return safe(of(t).GetMessage()) }},
		{"Attempts", func(t T) string { return fmt.Sprint(of(t).GetAttempts()) }},
		{"Generation", func(t T) string {
			return fmt.Sprintf("%d, observed %d", of(t).GetGeneration(), of(t).GetObservedGeneration())
		}},
	}
}
