package drivertest_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/drivers"
	"github.com/causeway-project/causeway/drivers/drivertest"
)

func TestMain(m *testing.M) { os.Exit(drivertest.Main(m)) }

var errArmed = errors.New("armed")

func conn(source string) drivers.Connection {
	return drivers.Connection{Kind: "fake", Source: source}
}

func at(source, target string) drivers.MountRequest {
	return drivers.MountRequest{Connection: conn(source), Target: target}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func wantTable(t *testing.T, f *drivertest.Fake, want string) {
	t.Helper()
	if d := cmp.Diff(want, f.String()); d != "" {
		t.Fatalf("mounts (-want +got):\n%s", d)
	}
}

func TestFakeEnforcesTheRules(t *testing.T) {
	ctx := t.Context()
	f := drivertest.NewFake("fake")
	for range 2 {
		wantErr(t, f.Mount(ctx, at("docs", "/m/a")), nil)
	}
	ro := at("docs", "/m/b")
	ro.ReadOnly = true
	wantErr(t, f.Mount(ctx, ro), nil)
	wantErr(t, f.Mount(ctx, at("other", "/n/c")), nil)
	wantTable(t, f, "fake:docs on /m/a\nfake:docs on /m/b ro\nfake:other on /n/c\n")
	if err := f.Mount(ctx, at("other", "/m/a")); err == nil {
		t.Error("mounted over something else")
	}
	if err := f.Mount(ctx, at("docs", "/m/b")); err == nil {
		t.Error("mounted over another mode")
	}

	release, ok := f.Use("/m/a")
	if !ok {
		t.Fatal("nothing to use")
	}
	wantErr(t, f.Unmount(ctx, "/m/a"), drivers.ErrBusy)
	f.Delete("docs")
	wantTable(t, f, "fake:docs on /m/a gone users=1\nfake:docs on /m/b ro gone\nfake:other on /n/c\n")
	got, err := f.Mounts(ctx, "/m/")
	wantErr(t, err, nil)
	want := []drivers.Mounted{{Target: "/m/a", Gone: true}, {Target: "/m/b", ReadOnly: true, Gone: true}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("mounts (-want +got):\n%s", d)
	}
	wantErr(t, f.Mount(ctx, at("docs", "/m/c")), drivers.ErrNotFound)
	wantErr(t, f.Probe(ctx, conn("docs")), drivers.ErrNotFound)
	f.Create("docs")
	if err := f.Mount(ctx, at("docs", "/m/a")); err == nil {
		t.Error("the old mount was taken for the new share")
	}
	release()
	release()
	for range 2 {
		wantErr(t, f.Unmount(ctx, "/m/a"), nil)
	}
	wantErr(t, f.Mount(ctx, at("docs", "/m/a")), nil)

	for _, c := range []drivers.Connection{
		{Kind: "other", Source: "docs"}, conn(""), conn("a/../b"),
		{Kind: "fake", Source: "docs", Options: map[string]string{"a": "b"}},
	} {
		wantErr(t, f.Validate(c), drivers.ErrSource)
		wantErr(t, f.Mount(ctx, drivers.MountRequest{Connection: c, Target: "/m/x"}), drivers.ErrSource)
	}
	if _, ok := f.Use("/none"); ok {
		t.Error("nothing is in use")
	}
}

func TestFakeFailsOnOrder(t *testing.T) {
	ctx := t.Context()
	f := drivertest.NewFake("fake")
	f.FailNth(drivertest.Mount, 2, errArmed)
	f.FailNext(drivertest.Unmount, drivers.ErrUnreachable)
	if d := cmp.Diff([]string{"mount in 2: armed", "unmount in 1: backend is unreachable"}, f.Armed()); d != "" {
		t.Errorf("armed (-want +got):\n%s", d)
	}
	wantErr(t, f.Mount(ctx, at("docs", "/m/a")), nil)
	wantErr(t, f.Mount(ctx, at("docs", "/m/b")), errArmed)
	wantErr(t, f.Mount(ctx, at("docs", "/m/c")), nil)
	wantErr(t, f.Unmount(ctx, "/m/a"), drivers.ErrUnreachable)
	wantTable(t, f, "fake:docs on /m/a\nfake:docs on /m/c\n")

	// Two orders for the next call are two failures.
	f.FailNext(drivertest.Mounts, errArmed)
	f.FailNext(drivertest.Mounts, errArmed)
	for _, want := range []error{errArmed, errArmed, nil} {
		_, err := f.Mounts(ctx, "/m")
		wantErr(t, err, want)
	}
	// The answer gets lost, the work was done.
	f.FailAfter(drivertest.Unmount, errArmed)
	wantErr(t, f.Unmount(ctx, "/m/a"), errArmed)
	wantTable(t, f, "fake:docs on /m/c\n")
	f.FailNext(drivertest.Probe, errArmed)
	f.FailNext(drivertest.Validate, errArmed)
	wantErr(t, f.Probe(ctx, conn("docs")), errArmed)
	wantErr(t, f.Validate(conn("docs")), errArmed)
	if a := f.Armed(); len(a) != 0 {
		t.Errorf("still armed: %q", a)
	}
	if n := f.Calls(drivertest.Mount); n != 3 {
		t.Errorf("%d calls of mount", n)
	}
}

func TestFakeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := drivertest.NewFake("fake")
		wantErr(t, f.Mount(t.Context(), at("slow", "/m/old")), nil)
		release := f.Hang("slow")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantErr(t, f.Mount(ctx, at("slow", "/m/late")), context.DeadlineExceeded)
		wantErr(t, f.Unmount(ctx, "/m/old"), context.DeadlineExceeded)
		wantErr(t, f.Probe(ctx, conn("slow")), context.DeadlineExceeded)
		wantErr(t, f.Mount(t.Context(), at("quick", "/m/quick")), nil) // others go on
		if _, err := f.Mounts(t.Context(), "/m"); err != nil {
			t.Error(err)
		}
		wantTable(t, f, "fake:slow on /m/old\nfake:quick on /m/quick\n")

		done := make(chan error, 1)
		go func() { done <- f.Mount(t.Context(), at("slow", "/m/patient")) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("did not hang: %v", err)
		default:
		}
		release()
		release()
		wantErr(t, <-done, nil)
		// What was given up has come late.
		wantTable(t, f, "fake:slow on /m/late\nfake:slow on /m/patient\nfake:quick on /m/quick\n")
		wantErr(t, f.Probe(t.Context(), conn("slow")), nil)

		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		wantErr(t, f.Mount(ctx, at("quick", "/m/never")), context.Canceled)
	})
}
