package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// keys knows where in the file each key stands, so that a message can say it.
type keys struct {
	name  string
	lines map[string]int // by dotted key
}

func (k keys) at(key, text string) error {
	if line, ok := k.lines[key]; ok {
		return fmt.Errorf("%s:%d: %s: %s", k.name, line, key, text)
	}
	return fmt.Errorf("%s: %s", key, text)
}

// read notes every key of the document, and refuses those that v, a struct,
// has no field for. yaml.Decoder.KnownFields would do so too, but in the words
// of Go's types.
func (k keys) read(n *yaml.Node, v any) error {
	return k.readInto(n, reflect.TypeOf(v), "")
}

func (k keys) readInto(n *yaml.Node, t reflect.Type, prefix string) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	isNull := n.Kind == yaml.ScalarNode && n.Tag == "!!null"
	if t.Kind() == reflect.Struct && !isNull && n.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: %s wants keys of its own, as in the shipped agent.yaml", k.name, n.Line, orRoot(prefix))
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	fields := fieldsOf(t)
	var wrong []error
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		k.lines[key] = name.Line
		field, ok := fields[name.Value]
		switch {
		case ok:
			wrong = append(wrong, k.readInto(value, field, key+"."))
		case t.Kind() == reflect.Struct:
			wrong = append(wrong, k.at(key, "unknown key; known here are "+known(fields)))
		}
	}
	return errors.Join(wrong...)
}

func orRoot(prefix string) string {
	if prefix == "" {
		return "the file"
	}
	return strings.TrimSuffix(prefix, ".")
}

// fieldsOf a struct, by their names in the file. Types that read themselves
// from text have none.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t.Kind() != reflect.Struct {
		return nil
	}
	fields := make(map[string]reflect.Type, t.NumField())
	for f := range t.Fields() {
		fields[f.Tag.Get("yaml")] = f.Type
	}
	return fields
}

func known(fields map[string]reflect.Type) string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
