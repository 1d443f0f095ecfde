package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-project/causeway/integration/lab"
)

// ganeshaConf of a server that is started by hand; %[1]s is its directory,
// %[2]s that which it exports.
const ganeshaConf = `NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFSv4 { Minor_Versions = 1,2; Lease_Lifetime = 5; Grace_Period = 5; RecoveryBackend = fs; RecoveryRoot = '%[1]s'; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT {
	Export_Id = 1;
	Path = '%[2]s';
	Pseudo = '/share';
	Access_Type = RW;
	Squash = none;
	SecType = sys;
	FSAL { Name = VFS; }
}
`

func TestKernelClientAndWriter(t *testing.T) {
	ctx := limited(t)
	w := newWorld(t)
	server, err := w.bridge.NewClient(ctx, "server", netip.MustParsePrefix("10.77.0.2/24"), netip.MustParsePrefix("fd77::2/64"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := lab.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	config, log := filepath.Join(dir, "ganesha.conf"), filepath.Join(dir, "log")
	if err := os.WriteFile(config, fmt.Appendf(nil, ganeshaConf, dir, w.pool.Dir), 0o600); err != nil {
		t.Fatal(err)
	}
	ganesha := server.Command(ctx, "ganesha.nfsd", "-F", "-f", config, "-p", filepath.Join(dir, "pid"), "-L", log)
	if err := ganesha.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ganesha.Process.Kill()
		_ = ganesha.Wait()
	})
	g := w.guest(t, lab.GuestOptions{Name: "nfs", Addresses: []netip.Prefix{
		netip.MustParsePrefix("10.77.0.5/24"), netip.MustParsePrefix("fd77::5/64"),
	}})
	for _, m := range []lab.NFSMount{
		{Server: "10.77.0.2", Client: "10.77.0.5", Path: "/share", At: "/mnt/four"},
		{Server: "fd77::2", Client: "fd77::5", Path: "/share", At: "/mnt/six"},
	} {
		if err := g.MountNFS(ctx, m); err != nil {
			logged, _ := os.ReadFile(log)
			t.Fatalf("%v\n%s\n%s", err, g.Log(), logged)
		}
		file := filepath.Base(m.At)
		writer, err := g.StartWriter(ctx, m.At+"/"+file, 5*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Mark(ctx); err != nil {
			t.Fatal(err)
		}
		if err := writer.WaitMore(ctx, 20); err != nil {
			t.Fatal(err)
		}
		p, err := writer.Stop(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if p.Longest <= 0 || p.Stalled != 0 {
			t.Errorf("stopped writer: %+v, want a longest stall and none under way", p)
		}
		data, err := os.Open(filepath.Join(w.pool.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.CheckLines(data, p.Lines); err != nil {
			t.Error(err)
		}
		if err := data.Close(); err != nil {
			t.Error(err)
		}
		if err := g.Unmount(ctx, m.At); err != nil {
			t.Error(err)
		}
	}
}
