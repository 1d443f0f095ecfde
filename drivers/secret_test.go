package drivers_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/drivers"
)

const canary = "hunter2-Zq9"

// leaked finds the canary in the forms in which fmt and the encoders write
// bytes.
func leaked(out string) bool {
	b := []byte(canary)
	dec := strings.Trim(fmt.Sprint(b), "[]")
	gosyntax := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}")
	for _, form := range []string{
		canary,
		hex.EncodeToString(b),
		strings.ToUpper(hex.EncodeToString(b)),
		base64.StdEncoding.EncodeToString(b),
		dec,
		strings.ReplaceAll(dec, " ", ","),
		gosyntax,
		strings.Trim(fmt.Sprintf("%o", b), "[]"),
		strings.Trim(fmt.Sprintf("%b", b), "[]"),
		strings.Trim(fmt.Sprintf("%c", b), "[]"),
		strings.Trim(fmt.Sprintf("%U", b), "[]"),
		fmt.Sprintf("% x", b),
		fmt.Sprintf("%# x", b),
		fmt.Sprintf("%#x", b),
	} {
		if strings.Contains(out, form) {
			return true
		}
	}
	return false
}

type exported struct{ S drivers.Secret }
type hidden struct{ s drivers.Secret }
type hiddenPointer struct{ s *drivers.Secret }
type hiddenDeep struct {
	m map[string][]drivers.Connection
	c drivers.Connection
}

func holders() map[string]any {
	s := drivers.NewSecret([]byte(canary))
	c := drivers.Connection{Kind: "k", Source: "s", Secret: s}
	return map[string]any{
		"bare":             s,
		"pointer":          &s,
		"slice":            []drivers.Secret{s},
		"array":            [1]drivers.Secret{s},
		"map":              map[string]drivers.Secret{"a": s},
		"map of pointers":  map[string]*drivers.Secret{"a": &s},
		"any":              []any{s, &s},
		"field":            exported{s},
		"unexported field": hidden{s},
		"unexported ptr":   hiddenPointer{&s},
		"pointer to field": &hidden{s},
		"connection":       c,
		"request":          &drivers.MountRequest{Connection: c},
		"deep":             hiddenDeep{m: map[string][]drivers.Connection{"a": {c}}, c: c},
		"slice of deep":    []*hiddenDeep{{c: c}},
	}
}

func TestSecretNeverPrints(t *testing.T) {
	// Every letter is tried: also those that fmt does not know, for which it
	// reports the operand by reflection.
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	var seen int
	for name, v := range holders() {
		for _, flag := range []string{"", "#", "+", " ", "# ", "-20", "020", "[2]"} {
			for _, verb := range letters {
				out := fmt.Sprintf("%"+flag+string(verb), v)
				if leaked(out) {
					t.Errorf("%s: %%%s%c prints %s", name, flag, verb, out)
				}
				seen++
			}
		}
		outs := []string{fmt.Sprint(v), fmt.Sprintln(v)}
		// Operands that are too many, no error, or no number: fmt reports them.
		for _, format := range []string{"no verb", "open %w: %v %s", "%*d", "%.*s", "%[5]d", "%!", "%"} {
			err := fmt.Errorf(format, v, v, v)
			outs = append(outs, err.Error(), errors.Join(err).Error(), fmt.Sprintf("%#v", err), fmt.Sprintf(format, v, v, v))
		}
		for _, out := range outs {
			if leaked(out) {
				t.Errorf("%s: prints %s", name, out)
			}
		}
	}
	if seen == 0 {
		t.Fatal("nothing was printed")
	}
}

func TestSecretNeverLogs(t *testing.T) {
	for name, v := range holders() {
		var out bytes.Buffer
		o := &slog.HandlerOptions{Level: slog.LevelDebug}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, o), slog.NewJSONHandler(&out, o)} {
			log := slog.New(h)
			log.Info("fact", "v", v, slog.Group("g", "v", v), "list", []any{v})
			log.With("v", v).WithGroup("g").Info("fact", "err", fmt.Errorf("bad: %v", v))
		}
		if leaked(out.String()) {
			t.Errorf("%s: logs %s", name, &out)
		}
	}
}

func TestSecretNeverEncodes(t *testing.T) {
	for name, v := range holders() {
		var out bytes.Buffer
		for _, encode := range []func(any) error{
			json.NewEncoder(&out).Encode, xml.NewEncoder(&out).Encode, gob.NewEncoder(&out).Encode,
		} {
			// An encoder may refuse the type, but not print the secret in
			// the refusal.
			if err := encode(v); err != nil {
				out.WriteString(err.Error())
			}
		}
		if leaked(out.String()) {
			t.Errorf("%s: encodes %s", name, &out)
		}
	}
	got, err := json.Marshal(drivers.Connection{Kind: "k", Secret: drivers.NewSecret([]byte(canary))})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"Kind":"k","Source":"","Options":null,"Secret":"***"}`; string(got) != want {
		t.Errorf("json: got %s, want %s", got, want)
	}
}

// A finder that finds nothing would make the tests above pass.
func TestLeakedFindsBytes(t *testing.T) {
	b := []byte(canary)
	type old struct{ b []byte }
	for _, out := range []string{
		fmt.Sprintf("%v", b), fmt.Sprintf("%#v", old{b}), fmt.Sprintf("%x", old{b}), fmt.Sprintf("%s", old{b}),
		fmt.Sprintf("%X", b), fmt.Sprintf("%d", []any{b}), fmt.Sprintf("%q", b),
	} {
		if !leaked(out) {
			t.Errorf("not found in %s", out)
		}
	}
}

func TestSecretRevealAndEqual(t *testing.T) {
	var zero drivers.Secret
	s := drivers.NewSecret([]byte(canary))
	if got := string(s.Reveal()); got != canary {
		t.Errorf("revealed %q", got)
	}
	if !zero.IsZero() || zero.Reveal() != nil || !drivers.NewSecret(nil).IsZero() || s.IsZero() {
		t.Error("IsZero is wrong")
	}
	if !s.Equal(drivers.NewSecret([]byte(canary))) || s.Equal(zero) || !zero.Equal(drivers.NewSecret(nil)) {
		t.Error("Equal is wrong")
	}
	a, b := drivers.Connection{Secret: s}, drivers.Connection{Secret: drivers.NewSecret([]byte("other"))}
	if d := cmp.Diff(a, b); d == "" || leaked(d) {
		t.Errorf("cmp.Diff: %q", d)
	}
}
