package starts

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Table
		want := func(at string, waits, under bool) {
			t.Helper()
			if x.Waits("a") != waits || x.Under("a") != under {
				t.Errorf("%s: waits=%v under=%v, want %v, %v", at, x.Waits("a"), x.Under("a"), waits, under)
			}
			if x.Waits("b") || x.Under("b") {
				t.Errorf("%s: another instance starts too", at)
			}
		}
		x.News("a")
		want("before", false, false)
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
		want("the hook waits", true, true)
		x.News("a")
		want("news of the former life", true, true)
		again := x.Begin("a")
		end()
		end()
		want("a second hook waits", true, true)
		time.Sleep(2 * Grace)
		want("it waits long", true, true)
		again()
		want("grace", false, true)
		time.Sleep(Grace + time.Second)
		want("after grace", false, false)
		x.Begin("a")()
		x.News("a")
		want("news", false, false)
	})
}
