package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// A transcript does steps and prints them, one line each with its time. After
// a step that failed no other is done, and err says which it was.
type transcript struct {
	out     io.Writer
	err     error
	verbose bool   // the log is shown
	log     string // its path
	shown   int64  // bytes of the log that were shown
}

// The layout: a line for a step is as wide as a terminal at least is.
const (
	indent    = "  "
	textWidth = 70 // up to the column of times
	timeWidth = 9
)

// stepLimit is for each step; only a guest's boot may need more. The command
// line waits a minute, and then says why.
const stepLimit = 70 * time.Second

// heading of the steps that follow.
func (t *transcript) heading(text string) {
	if t.err == nil {
		fmt.Fprintln(t.out, text)
	}
}

// step prints what it does, does it, and prints how long it took.
func (t *transcript) step(ctx context.Context, text string, do func(context.Context) error) {
	t.stepWithin(ctx, stepLimit, text, do)
}

func (t *transcript) stepWithin(ctx context.Context, limit time.Duration, text string, do func(context.Context) error) {
	if t.err != nil {
		return
	}
	t.begin(text)
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	begin := time.Now()
	err := do(limited)
	took := time.Since(begin)
	if err != nil {
		fmt.Fprintf(t.out, "%*s\n", timeWidth, "failed")
		t.err = fmt.Errorf("%s: %w", text, err)
	} else {
		t.end(took)
	}
	if t.verbose && t.log != "" {
		t.err = errors.Join(t.err, t.showLog())
	}
}

func (t *transcript) begin(text string) {
	lines := wrap(text, textWidth-len(indent))
	for _, l := range lines[:len(lines)-1] {
		fmt.Fprintln(t.out, indent+l)
	}
	fmt.Fprintf(t.out, "%-*s", textWidth, indent+lines[len(lines)-1])
}

func (t *transcript) end(took time.Duration) {
	fmt.Fprintf(t.out, "%*d ms\n", timeWidth-len(" ms"), took.Milliseconds())
}

// line prints what took so long.
func (t *transcript) line(text string, took time.Duration) {
	t.begin(text)
	t.end(took)
}

// note prints what a step brought to light.
func (t *transcript) note(format string, args ...any) {
	if t.err == nil {
		fmt.Fprintf(t.out, indent+"  -> "+format+"\n", args...)
	}
}

// table prints what a command printed.
func (t *transcript) table(text string) {
	if t.err != nil {
		return
	}
	for line := range strings.Lines(text) {
		fmt.Fprint(t.out, indent+"     "+line)
	}
}

// showLog prints what was logged since it was last called.
func (t *transcript) showLog() error {
	f, err := os.Open(t.log)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(t.shown, io.SeekStart); err != nil {
		return err
	}
	text, err := io.ReadAll(f)
	t.shown += int64(len(text))
	for line := range strings.Lines(string(text)) {
		fmt.Fprintln(t.out, indent+"  | "+strings.TrimSuffix(line, "\n"))
	}
	return err
}

// wrap breaks a command before its flags where it is too wide, the way one
// would type it into a shell.
func wrap(command string, width int) []string {
	const more, next = ` \`, "    "
	var lines []string
	words := strings.Split(command, " --")
	line := words[0]
	for _, flag := range words[1:] {
		flag = "--" + flag
		if len(line)+len(" ")+len(flag)+len(more) > width {
			lines = append(lines, line+more)
			line = next + flag
			continue
		}
		line += " " + flag
	}
	return append(lines, line)
}
