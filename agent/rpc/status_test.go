package rpc

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-project/causeway/agent/fault"
)

// kinds reads the kinds from the source, so that a new one cannot be missed.
func kinds(t *testing.T) []fault.Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../fault/fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []fault.Kind
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Kind" {
			word, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fault.Kind(word))
		}
		return true
	})
	return all
}

func TestEveryKindHasItsCode(t *testing.T) {
	want := map[fault.Kind]codes.Code{
		fault.Invalid:      codes.InvalidArgument,
		fault.NotFound:     codes.NotFound,
		fault.Conflict:     codes.AlreadyExists,
		fault.Precondition: codes.FailedPrecondition,
		fault.Busy:         codes.Aborted,
		fault.Unavailable:  codes.Unavailable,
		fault.Exhausted:    codes.ResourceExhausted,
		fault.Deadline:     codes.DeadlineExceeded,
		fault.Denied:       codes.PermissionDenied,
		fault.Internal:     codes.Internal,
	}
	all := kinds(t)
	if len(all) != len(want) {
		t.Errorf("the agent has %d kinds, this test %d", len(all), len(want))
	}
	seen := map[codes.Code]fault.Kind{}
	for _, k := range all {
		got := code(k)
		if got != want[k] {
			t.Errorf("%s has code %s, want %s", k, got, want[k])
		}
		if other, twice := seen[got]; twice {
			t.Errorf("%s and %s share code %s", k, other, got)
		}
		seen[got] = k
	}
	if code("nonsense") != codes.Internal {
		t.Error("an unknown kind is not Internal")
	}
}

func TestExplain(t *testing.T) {
	ours := &fault.Error{Kind: fault.Precondition, Reason: "instance_off", Message: "instance vm1 is off; start it",
		Metadata: map[string]string{"instance": "vm1"}}
	for name, c := range map[string]struct {
		err     error
		code    codes.Code
		reason  fault.Reason
		message string
	}{
		"ours":               {ours, codes.FailedPrecondition, "instance_off", "instance vm1 is off; start it"},
		"ours, wrapped":      {fmt.Errorf("attach: %w", ours), codes.FailedPrecondition, "instance_off", "instance vm1 is off; start it"},
		"ours with a cause":  {&fault.Error{Kind: fault.Unavailable, Reason: "x", Message: "m", Err: errors.New("why")}, codes.Unavailable, "x", "why: m"},
		"deadline":           {context.DeadlineExceeded, codes.DeadlineExceeded, "deadline", "the call's time ran out"},
		"deadline, wrapped":  {fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "deadline", "the call's time ran out"},
		"deadline, internal": {&fault.Error{Kind: fault.Internal, Err: context.DeadlineExceeded}, codes.DeadlineExceeded, "deadline", "the call's time ran out"},
		"agent's deadline":   {&fault.Error{Kind: fault.Deadline, Reason: "waiting", Message: "waits for the guest", Err: context.DeadlineExceeded}, codes.DeadlineExceeded, "waiting", "context deadline exceeded: waits for the guest"},
		"canceled":           {context.Canceled, codes.Canceled, "canceled", "the call was given up"},
		"a status":           {status.Error(codes.NotFound, "unknown service"), codes.NotFound, "", "unknown service"},
		"a stranger":         {errors.New("/etc/shadow: no"), codes.Internal, "internal", "internal error, a bug"},
	} {
		f := explain(t.Context(), c.err)
		if f.code != c.code || f.reason != c.reason || !strings.HasPrefix(f.message, c.message) {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestStatusIsFitToSend(t *testing.T) {
	err := failure{code: codes.Unavailable, reason: "r",
		message:  strings.Repeat("ü", maxMessage),
		metadata: map[string]string{"path": "\xff\xfe" + strings.Repeat("x", 2*maxMessage)}}.err(nil)
	s := status.Convert(err)
	i := info(err)
	for _, text := range []string{s.Message(), i.GetMetadata()["path"]} {
		if !utf8.ValidString(text) || len(text) > maxMessage+10 {
			t.Errorf("%d bytes: %q...", len(text), text[:20])
		}
	}
	if i.GetDomain() != Domain || i.GetReason() != "r" {
		t.Errorf("info %v", i)
	}
}
