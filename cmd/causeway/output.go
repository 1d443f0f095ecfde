package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
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
	if c.output == "yaml" {
		data, err := toYAML(data)
		if err != nil {
			return err
		}
		_, err = c.out.Write(data)
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := c.out.Write(escapeJSON(b.Bytes()))
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
