package main

import (
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"
)

func parseNode(t *testing.T, data []byte) *yaml.Node {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal(data, &n); err != nil {
		t.Fatal(err)
	}
	return n.Content[0]
}

// everyKey of a config, dotted.
func everyKey() []string {
	var all []string
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for name, field := range fieldsOf(t) {
			all = append(all, prefix+name)
			walk(field, prefix+name+".")
		}
	}
	walk(reflect.TypeFor[config](), "")
	return all
}

func TestEveryFieldHasAName(t *testing.T) {
	all := everyKey()
	if len(all) < 20 {
		t.Errorf("only %d keys: %q", len(all), all)
	}
	for _, key := range all {
		if key == "" || key[len(key)-1] == '.' {
			t.Errorf("a field without a name: %q", key)
		}
	}
}
