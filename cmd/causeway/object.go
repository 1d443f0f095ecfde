package main

import (
	"fmt"
	"maps"
	"slices"

	nodev1 "github.com/causeway-project/causeway/api/node/v1"
)

// share in the form that --source takes.
func share(c *nodev1.Connection) string {
	return c.GetBackendKind() + ":" + c.GetSource()
}

func options(c *nodev1.Connection) []string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(c.GetOptions())) {
		all = append(all, k+"="+c.GetOptions()[k])
	}
	return all
}

func phase(s *nodev1.Status) string { return word(s.GetPhase(), "PHASE_") }

func statusDetail[T any](of func(T) *nodev1.Status) []detail[T] {
	return []detail[T]{
		{"Phase", one(func(t T) string { return phase(of(t)) })},
		{"Since", one(func(t T) string { return stamp(of(t).GetSince()) })},
		{"Reason", one(func(t T) string { return of(t).GetReason() })},
		{"Message", one(func(t T) string { return of(t).GetMessage() })},
		{"Attempts", one(func(t T) string { return fmt.Sprint(of(t).GetAttempts()) })},
		{"Generation", one(func(t T) string {
			return fmt.Sprintf("%d, observed %d", of(t).GetGeneration(), of(t).GetObservedGeneration())
		})},
	}
}
