package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

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

// toYAML writes JSON as YAML, its fields in their order. Strings that a
// terminal might act on are quoted: in quotes YAML has escapes for what its
// library would print as it is.
func toYAML(data []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := yamlNode(d)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	if !bytes.ContainsFunc(b.Bytes(), rawInJSON) {
		return b.Bytes(), nil
	}
	var escaped bytes.Buffer
	for _, r := range b.String() {
		if rawInJSON(r) {
			fmt.Fprintf(&escaped, `\U%08x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	return escaped.Bytes(), nil
}

func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if t == '{' {
			n.Kind = yaml.MappingNode
		}
		for d.More() { // keys and values alike
			item, err := yamlNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		_, err := d.Token() // the closing one
		return n, err
	case string:
		n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: t}
		if strings.ContainsFunc(t, unprintable) {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n, nil
	}
	if t == nil {
		t = "null"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(t)}, nil
}
