package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"
)

// A column is one value of an object, for a person.
type column[T any] struct {
	title string
	value func(T) string
}

// A detail is one line of show, or several under one title.
type detail[T any] struct {
	title  string
	values func(T) []string
}

func one[T any](value func(T) string) func(T) []string {
	return func(t T) []string { return []string{value(t)} }
}

// A view is how objects of one noun are printed.
type view[T any] struct {
	row    []column[T]             // of a table
	detail []detail[T]             // of show
	json   func(T) ([]byte, error) // protojson of the object
}

// printOne prints one object: all there is to say of it.
func printOne[T any](c *cli, v view[T], item T) error {
	if c.output != "table" {
		data, err := v.json(item)
		if err != nil {
			return err
		}
		return c.printData(data)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, d := range v.detail {
		values := d.values(item)
		if len(values) == 0 {
			values = []string{""}
		}
		title := d.title + ":"
		for _, value := range values {
			fmt.Fprintf(w, "%s\t%s\n", title, orDash(value))
			title = ""
		}
	}
	return w.Flush()
}

// printAll prints a table, or an array.
func printAll[T any](c *cli, v view[T], items []T) error {
	if c.output != "table" {
		all := make([]json.RawMessage, 0, len(items))
		for _, item := range items {
			data, err := v.json(item)
			if err != nil {
				return err
			}
			all = append(all, data)
		}
		data, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return c.printData(data)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for i, col := range v.row {
		fmt.Fprint(w, separator(i), col.title)
	}
	fmt.Fprintln(w)
	for _, item := range items {
		for i, col := range v.row {
			fmt.Fprint(w, separator(i), orDash(col.value(item)))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func separator(i int) string {
	if i == 0 {
		return ""
	}
	return "\t"
}

func (c *cli) printData(data []byte) error {
	var err error
	if c.output == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	} else {
		var b bytes.Buffer
		if err := json.Indent(&b, data, "", "  "); err != nil {
			return err
		}
		b.WriteByte('\n')
		data = escapeJSON(b.Bytes())
	}
	_, err = c.out.Write(data)
	return err
}

// protoJSON has the field names of the proto, and every field, so that a
// script need not ask whether one is there. protojson varies its spaces on
// purpose: compacting takes them out.
func protoJSON[T proto.Message](m T) ([]byte, error) {
	data, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// safe makes a string from elsewhere harmless to a terminal: whatever is not
// printable, from ESC to the marks that turn the direction of writing, is
// shown as Go would escape it.
func safe(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unprintable(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
		s = s[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// escapeJSON does the same for JSON, where such runes stand in strings only:
// JSON itself lets all but the first 32 through.
func escapeJSON(data []byte) []byte {
	if !bytes.ContainsFunc(data, rawInJSON) {
		return data
	}
	var b bytes.Buffer
	for _, r := range string(data) {
		switch {
		case !rawInJSON(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xD800+(r>>10), 0xDC00+(r&0x3FF))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

func rawInJSON(r rune) bool { return r != '\n' && unprintable(r) }

// orDash is the value of a cell, safe to print.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return safe(s)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func mode(readOnly bool) string {
	if readOnly {
		return "ro"
	}
	return "rw"
}

// word takes an enum's value without its prefix: PHASE_READY is "ready".
func word(enum fmt.Stringer, prefix string) string {
	w := strings.ToLower(strings.TrimPrefix(enum.String(), prefix))
	if w == "unspecified" {
		return ""
	}
	return strings.ReplaceAll(w, "_", "-")
}

func stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format(time.RFC3339)
}

// age in its largest unit.
func (c *cli) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	d := max(c.now().Sub(t.AsTime()), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// say prints a line for a person, and nothing where a program reads.
func (c *cli) say(format string, args ...any) {
	if c.output == "table" {
		io.WriteString(c.out, safe(fmt.Sprintf(format, args...))+"\n") //nolint:errcheck // nobody to tell
	}
}
