package vitals

import (
	"context"
	"errors"
	"testing"

	"github.com/causeway-project/causeway/ganesha"
)

// TestMute: D-Bus is asked each fourth time, and may be silent twice in a row.
func TestMute(t *testing.T) {
	silent := errors.New("no answer")
	mute := true
	p := &Prober{Ask: func(_ context.Context, o ganesha.ProbeOptions) (h ganesha.Health) {
		if mute && !o.NFSOnly {
			h.Bus = silent
		}
		return h
	}}
	for n := 1; n <= 8*busEvery; n++ {
		mute = n != 3*busEvery // it answers once
		if h, told := p.once(t.Context()), n >= 6*busEvery && n%busEvery == 0; (h.Bus != nil) != told {
			t.Errorf("question %d: %+v, to be told is %v", n, h, told)
		}
	}
	p = &Prober{Ask: func(context.Context, ganesha.ProbeOptions) ganesha.Health {
		return ganesha.Health{NFS: silent, Bus: silent}
	}}
	if h := p.once(t.Context()); h.NFS == nil || h.Bus == nil {
		t.Errorf("one that does not serve either: %+v", h)
	}
}
