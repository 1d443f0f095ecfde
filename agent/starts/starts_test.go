package starts

import (
	"context"
	"errors"
	"testing"
)

func TestTable(t *testing.T) {
	var x Table
	want := func(at string, under bool) {
		t.Helper()
		if x.Under("a") != under || x.Under("b") {
			t.Errorf("%s: a=%v b=%v, want %v, false", at, x.Under("a"), x.Under("b"), under)
		}
	}
	want("before", false)
	ctx, cancel := x.Guard(t.Context(), "a")
	defer cancel()
	other, cancelOther := x.Guard(t.Context(), "b")
	defer cancelOther()
	end := x.Begin("a")
	if !errors.Is(context.Cause(ctx), ErrBegun) || other.Err() != nil {
		t.Errorf("the guards end with %v and %v", context.Cause(ctx), other.Err())
	}
	late, cancelLate := x.Guard(t.Context(), "a")
	defer cancelLate()
	if !errors.Is(context.Cause(late), ErrBegun) {
		t.Errorf("a guard that came late ends with %v", context.Cause(late))
	}
	want("a hook waits", true)
	again := x.Begin("a")
	end()
	end()
	want("a second hook waits", true)
	again()
	want("after both", false)
	after, cancelAfter := x.Guard(t.Context(), "a")
	if after.Err() != nil {
		t.Errorf("a guard after both ends with %v", context.Cause(after))
	}
	cancelAfter()
	if len(x.hooks)+len(x.guards) != 3 { // those that the test cancels at its end
		t.Errorf("%d hooks and %d guards are left", len(x.hooks), len(x.guards))
	}
}
