package drivers_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/drivers"
)

type plain struct{ kind string }

func (p plain) Kind() string                                            { return p.kind }
func (plain) Properties() drivers.Properties                            { return drivers.Properties{StableHandles: true} }
func (plain) Validate(drivers.Connection) error                         { return nil }
func (plain) Mount(context.Context, drivers.MountRequest) error         { return nil }
func (plain) Unmount(context.Context, string) error                     { return nil }
func (plain) Mounts(context.Context, string) ([]drivers.Mounted, error) { return nil, nil }

type able struct{ plain }

func (able) Probe(context.Context, drivers.Connection) error { return nil }
func (able) Usage(context.Context, drivers.Connection) (drivers.Usage, error) {
	return drivers.Usage{}, nil
}

func TestRegistryDescribes(t *testing.T) {
	r, err := drivers.NewRegistry(plain{"z"}, able{plain{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	props := drivers.Properties{StableHandles: true}
	want := []drivers.Description{
		{Kind: "a", Properties: props, Abilities: []drivers.Ability{drivers.CanProbe, drivers.CanReportUsage}},
		{Kind: "z", Properties: props},
	}
	if d := cmp.Diff(want, r.Descriptions()); d != "" {
		t.Errorf("descriptions (-want +got):\n%s", d)
	}
	a, _ := r.Get("a")
	z, ok := r.Get("z")
	if !ok || a.Prober == nil || a.UsageReporter == nil || z.Prober != nil || z.UsageReporter != nil {
		t.Errorf("abilities are bound wrongly: %+v %+v", a, z)
	}
	if _, ok := r.Get("none"); ok {
		t.Error("a driver that is not there was found")
	}
}

func TestRegistryRefuses(t *testing.T) {
	for name, ms := range map[string][]drivers.Mounter{
		"twice":      {plain{"a"}, able{plain{"a"}}},
		"no kind":    {plain{""}},
		"no mounter": {nil},
	} {
		if _, err := drivers.NewRegistry(ms...); err == nil || !strings.Contains(err.Error(), "driver") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
