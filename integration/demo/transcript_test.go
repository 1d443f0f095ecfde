package main

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrap(t *testing.T) {
	for command, want := range map[string][]string{
		"":                               {""},
		"$ causeway export delete docs":  {"$ causeway export delete docs"},
		"$ make it --with one --and two": {`$ make it --with one \`, "    --and two"},
		"$ make it --much-too-long-to-fit-into-one-line": {`$ make it \`, "    --much-too-long-to-fit-into-one-line"},
	} {
		if diff := cmp.Diff(want, wrap(command, 25)); diff != "" {
			t.Errorf("wrap %q (-want +got):\n%s", command, diff)
		}
	}
}

// plain has neither columns nor times.
func plain(transcript string) string {
	times := regexp.MustCompile(` +(\d+ ms|failed)`)
	return times.ReplaceAllStringFunc(transcript, func(s string) string {
		if strings.HasSuffix(s, "failed") {
			return " failed"
		}
		return " 0 ms"
	})
}

func TestStepAfterFailure(t *testing.T) {
	var out strings.Builder
	tr := transcript{out: &out}
	broken := errors.New("broken")
	done := 0
	for _, err := range []error{nil, broken, nil} {
		tr.heading("heading")
		tr.step(t.Context(), "step", func(context.Context) error { done++; return err })
		tr.note("note")
	}
	if done != 2 {
		t.Errorf("%d steps were done, want 2", done)
	}
	if !errors.Is(tr.err, broken) || tr.err.Error() != "step: broken" {
		t.Errorf("error %v, want that of the second step", tr.err)
	}
	want := `heading
  step 0 ms
    -> note
heading
  step failed
`
	if diff := cmp.Diff(want, plain(out.String())); diff != "" {
		t.Errorf("transcript (-want +got):\n%s", diff)
	}
}
