package ganesha

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/ganesha/nfs3"
	"github.com/causeway-project/causeway/integration/golden"
	"github.com/causeway-project/causeway/integration/needs"
	"github.com/causeway-project/causeway/integration/nfsv3"
	"github.com/causeway-project/causeway/integration/wait"
)

var allVersions = Versions{NFS3, NFS40, NFS41, NFS42}

func TestRenderVersions(t *testing.T) {
	e := Export{
		ID: 7, Path: "/run/causeway/exports/blue/7", Pseudo: "/docs", FSID: 4711,
		Rules: []Rule{rule("10.77.0.0/24", ReadWrite, SquashRoot)},
	}
	for name, v := range map[string]Versions{"all": allVersions, "3": {NFS3}, "4.0": {NFS40}, "4.2": {NFS42}} {
		for _, r := range []release{{4, 3}, {6, 5}} {
			got, err := renderServer(server{
				Release: r, StateDir: "/var/lib/causeway/gateways/blue", CacheDir: "/run/causeway/gateways/blue/var/cc",
				Lease: 10 * time.Second, Grace: 15 * time.Second, Versions: v,
			})
			if err != nil {
				t.Fatal(err)
			}
			export, err := v.renderExport(e)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "versions-"+name+"-"+r.String()+".conf", got+export)
		}
	}
}

func TestCheckNamesWhatToInstall(t *testing.T) {
	system := t.TempDir()
	if err := DefaultVersions().Check(system); err != nil {
		t.Errorf("the default wants %v", err)
	}
	put := func(path string) {
		if err := os.MkdirAll(filepath.Dir(system+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(system+path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct{ add, want string }{
		{"", "rpcbind and rpc.statd and sm-notify not installed: install rpcbind and nfs-common"},
		{"/usr/bin/rpcbind", "rpc.statd and sm-notify not installed: install nfs-common"},
		{"/usr/sbin/rpc.statd", "sm-notify not installed: install nfs-common"},
	} {
		if step.add != "" {
			put(step.add)
		}
		err := Versions{NFS3, NFS41}.Check(system)
		if !errors.Is(err, ErrVersion) || !errors.Is(err, nfs3.ErrMissing) || !strings.Contains(err.Error(), step.want) {
			t.Errorf("with %q: %v, want %q", step.add, err, step.want)
		}
	}
	put("/usr/sbin/sm-notify")
	if err := (Versions{NFS3}).Check(system); err == nil || errors.Is(err, nfs3.ErrMissing) {
		t.Errorf("without Ganesha: %v", err)
	}
}

// onBothWith is onBoth with what NFSv3 needs there.
func onBothWith(t *testing.T, v Versions, test func(t *testing.T, s *site)) {
	onBoth(t, func(t *testing.T, system string) {
		needs.Met(t, v.Check(system))
		s := newSiteOn(t, system)
		s.o.Versions = v
		s.g = New(s.o)
		test(t, s)
	})
}

func (s *site) v3(from, name string) *nfsv3.Client {
	c := nfsv3.New(nfsv3.Options{
		Server: netip.MustParseAddr("127.0.0.1"), NetNS: s.o.NetNS, LocalAddr: netip.MustParseAddr(from), Name: name,
	})
	s.t.Cleanup(c.Close)
	return c
}

func TestNFSv3(t *testing.T) {
	onBothWith(t, allVersions, func(t *testing.T, s *site) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		e, hidden, late := s.share(1), s.tree(2), s.tree(3)
		e.Rules = []Rule{
			rule("127.0.0.2/32", ReadOnly, SquashRoot), rule("127.0.0.3/32", ReadWrite, SquashAll), rule("127.0.0.1/32", ReadWrite, SquashNone),
		}
		hidden.Rules = []Rule{rule("10.9.9.9/32", ReadWrite, SquashNone)}
		s.start(e, hidden)
		s.put(late)
		a := s.v3("127.0.0.1", "a")
		root, err := a.Mount(ctx, e.Pseudo)
		if err != nil {
			t.Fatal(err)
		}
		f, err := a.Create(ctx, root, "f")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Write(ctx, f, 0, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(e.Path, "f")); err != nil || string(b) != "hello" {
			t.Errorf("the file holds %q, %v", b, err)
		}
		if got, err := a.Read(ctx, f, 1, 100); err != nil || string(got) != "ello" {
			t.Errorf("read %q, %v", got, err)
		}

		stats, err := s.g.ExportStats(ctx)
		if err != nil || len(stats) != 1 || stats[0].ID != e.ID || stats[0].Write.Bytes != 5 || stats[0].Read.Ops != 1 {
			t.Errorf("statistics are %+v, %v", stats, err)
		}

		// The rules are those of NFSv4.
		ro := s.v3("127.0.0.2", "ro")
		if _, err := ro.Mount(ctx, e.Pseudo); err != nil {
			t.Error(err)
		}
		if err := ro.Write(ctx, f, 0, []byte("x")); !errors.Is(err, nfsv3.ROFS) {
			t.Errorf("write by a read-only client: %v, want ROFS", err)
		}
		if _, err := ro.Read(ctx, f, 0, 9); err != nil {
			t.Error(err)
		}
		all := s.v3("127.0.0.3", "all")
		theirs, err := all.Create(ctx, root, "theirs")
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid, err := all.Owner(ctx, theirs); err != nil || uid != 65534 || gid != 65533 {
			t.Errorf("squashed to %d:%d, %v", uid, gid, err)
		}
		nobody := s.v3("127.0.0.9", "nobody")
		for _, path := range []string{e.Pseudo, hidden.Pseudo, e.Path, "/", tag(e), "/.fs-0-0"} {
			if _, err := nobody.Mount(ctx, path); !errors.Is(err, nfsv3.ACCES) {
				t.Errorf("mount of %s by a stranger: %v, want ACCES", path, err)
			}
		}
		if _, err := nobody.Read(ctx, f, 0, 9); err == nil {
			t.Error("a stranger read with a handle that it guessed")
		}
		if err := nobody.Write(ctx, f, 0, []byte("x")); err == nil {
			t.Error("a stranger wrote with a handle that it guessed")
		}

		// Nobody is told of exports that he may not mount.
		for c, want := range map[*nfsv3.Client][]string{a: {e.Pseudo, late.Pseudo}, ro: {e.Pseudo, late.Pseudo}, nobody: {late.Pseudo}} {
			got, err := c.Exports(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Errorf("exports are %v, want %v", got, want)
			}
			for _, path := range want {
				if _, ok := got[path]; !ok {
					t.Errorf("exports are %v, want %v", got, want)
				}
			}
		}

		// A rule that is gone is gone at the next operation.
		e.Rules = e.Rules[:2]
		s.put(e)
		if err := a.Write(ctx, f, 0, []byte("late")); err == nil {
			t.Error("write without a rule")
		}
		if err := s.g.Remove(ctx, late.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := all.Mount(ctx, late.Pseudo); !errors.Is(err, nfsv3.ACCES) {
			t.Errorf("mount of what was withdrawn: %v", err)
		}
	})
}

// calls tells of each version whether it is answered.
func (s *site) calls(ctx context.Context) map[string]bool {
	s.t.Helper()
	answered := map[string]bool{}
	c := s.v3("127.0.0.1", "versions")
	_, err := c.Call(ctx, nfsv3.Procedure{Program: nfsv3.NFS, Version: 3}, nil)
	if err != nil && !errors.Is(err, nfsv3.ErrRefused) {
		s.t.Fatal(err)
	}
	answered["3"] = err == nil
	for minor := range byte(3) {
		// COMPOUND with a tag of no length, and one PUTROOTFH.
		d, err := c.Call(ctx, nfsv3.Procedure{Program: nfsv3.NFS, Version: 4, Number: 1}, []byte{0, 0, 0, 0, 0, 0, 0, minor, 0, 0, 0, 1, 0, 0, 0, 24})
		if errors.Is(err, nfsv3.ErrRefused) {
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		const minorMismatch = 10021
		answered["4."+string('0'+rune(minor))] = d.First() != minorMismatch
	}
	return answered
}

func TestVersionsAreServedAsAsked(t *testing.T) {
	for _, v := range []Versions{nil, {NFS40, NFS41, NFS42}, {NFS3}, allVersions} {
		t.Run(v.protocols()+" "+v.minors(), func(t *testing.T) {
			onBothWith(t, v, func(t *testing.T, s *site) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*wait.Long)
				defer cancel()
				s.start(s.tree(1))
				want := map[string]bool{"3": v.v3(), "4.0": strings.Contains(v.minors(), "0")}
				if v.v4() {
					want["4.1"], want["4.2"] = true, true
				} else {
					delete(want, "4.0")
				}
				if d := cmp.Diff(want, s.calls(ctx)); d != "" {
					t.Errorf("-want +got:\n%s", d)
				}
				if h := s.g.Probe(ctx, ProbeOptions{}); !h.OK() {
					t.Errorf("probe: %+v", h)
				}
				for _, name := range []string{"rpcbind", "statd"} {
					if p, err := process.Find(s.g.path(name)); err != nil || (p != nil) != v.v3() {
						t.Errorf("%s: %v, %v", name, p, err)
					}
				}
				if err := s.g.Stop(ctx, StopOptions{}); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(s.o.RunDir); !errors.Is(err, os.ErrNotExist) {
					t.Error("the run directory is left")
				}
			})
		})
	}
}

func (s *site) lock(ctx context.Context, c *nfsv3.Client, l nfsv3.Lock) nfsv3.LockStatus {
	s.t.Helper()
	got, err := c.Lock(ctx, l)
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// untilGrace asks for a lock until grace has ended.
func (s *site) untilGrace(ctx context.Context, c *nfsv3.Client, l nfsv3.Lock) nfsv3.LockStatus {
	s.t.Helper()
	got := nfsv3.InGrace
	wait.Until(s.t, "grace ends", func() bool { got = s.lock(ctx, c, l); return got != nfsv3.InGrace })
	return got
}

// A neighbour is a namespace beside the gateway's, with machines of 10.66.0.0/24.
type neighbour struct {
	t     testing.TB
	netns string
}

func (s *site) neighbour() *neighbour {
	s.t.Helper()
	name := filepath.Base(s.o.NetNS)
	n := &neighbour{s.t, "/run/netns/" + name + "n"}
	s.ip("netns", "add", name+"n")
	s.t.Cleanup(func() { s.ip("netns", "del", name+"n") })
	s.ip("link", "add", "e0", "netns", name, "type", "veth", "peer", "name", "e0", "netns", name+"n")
	for _, at := range [][]string{{name, "10.66.0.1"}, {name + "n", "10.66.0.2"}, {name + "n", "10.66.0.3"}} {
		s.ip("-n", at[0], "addr", "add", at[1]+"/24", "dev", "e0")
		s.ip("-n", at[0], "link", "set", "e0", "up")
	}
	return n
}

func (n *neighbour) v3(from, name string) *nfsv3.Client {
	c := nfsv3.New(nfsv3.Options{
		Server: netip.MustParseAddr("10.66.0.1"), NetNS: n.netns, LocalAddr: netip.MustParseAddr(from), Name: name,
	})
	n.t.Cleanup(c.Close)
	return c
}

// notices stands where a client's rpcbind and rpc.statd stand, and hears that
// the server was started anew.
func (n *neighbour) notices(at string) <-chan string {
	n.t.Helper()
	heard := make(chan string, 16)
	var conns []net.PacketConn
	for _, port := range []string{"111", "4711"} {
		var conn net.PacketConn
		err := inside(n.netns, func() (err error) {
			conn, err = net.ListenPacket("udp4", net.JoinHostPort(at, port))
			return err
		})
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	for i, conn := range conns {
		go func() {
			b := make([]byte, 9000)
			for {
				size, from, err := conn.ReadFrom(b)
				if err != nil {
					return
				}
				if size < 24 {
					continue
				}
				answer := append([]byte{}, b[:4]...)                        // xid
				answer = append(answer, 0, 0, 0, 1)                         // REPLY
				answer = append(answer, make([]byte, 16)...)                // accepted, no verifier, SUCCESS
				program := binary.BigEndian.Uint32(b[12:])                  // RFC 5531, 9
				answer = binary.BigEndian.AppendUint32(answer, 4711)        // a port, to GETPORT; void is shorter
				if i == 1 && program == 100024 && b[23] == 6 && size > 44 { // SM_NOTIFY
					heard <- from.String()
				}
				_, _ = conn.WriteTo(answer, from)
			}
		}()
	}
	return heard
}

func TestLocksOfNFSv3(t *testing.T) {
	onBothWith(t, allVersions, func(t *testing.T, s *site) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		e := s.share(1)
		e.Rules = []Rule{rule("10.66.0.0/24", ReadWrite, SquashNone)}
		n := s.neighbour()
		s.start(e)
		// Two machines, which the server knows by their addresses.
		a, b := n.v3("10.66.0.2", "a"), n.v3("10.66.0.3", "b")
		heard := n.notices("10.66.0.2")
		root, err := a.Mount(ctx, e.Pseudo)
		if err != nil {
			t.Fatal(err)
		}
		f, err := a.Create(ctx, root, "f")
		if err != nil {
			t.Fatal(err)
		}
		mine, yours := nfsv3.Lock{File: f, Process: 1}, nfsv3.Lock{File: f, Process: 1}
		if got := s.lock(ctx, a, mine); got != nfsv3.Granted {
			t.Fatalf("lock: %d, want granted: there is nobody to wait for", got)
		}
		if got := s.lock(ctx, b, yours); got != nfsv3.Denied {
			t.Errorf("the other's lock: %d, want denied", got)
		}

		// rpc.statd alone ends: nobody is told anything, and the lock stands.
		s.killPart("statd")
		s.start(e)
		if h := s.g.Probe(ctx, ProbeOptions{}); !h.OK() {
			t.Errorf("probe: %+v", h)
		}
		if got := s.lock(ctx, b, yours); got != nfsv3.Denied {
			t.Errorf("the other's lock: %d, want denied", got)
		}

		select {
		case from := <-heard:
			t.Errorf("the client was told of nothing, from %s", from)
		default:
		}

		// Ganesha ends: its clients are told, and take their locks again.
		s.kill(s.pid())
		s.start(e)
		select {
		case from := <-heard:
			if !strings.HasSuffix(from, ":32766") {
				t.Errorf("the notice came from %s", from)
			}
		case <-ctx.Done():
			t.Fatal("the client was not told")
		}
		a.Close() // it and b connect again
		b.Close()
		mine.Reclaim = true
		if got := s.lock(ctx, a, mine); got != nfsv3.Granted {
			t.Errorf("reclaim: %d, want granted", got)
		}
		if got := s.lock(ctx, b, yours); got != nfsv3.InGrace {
			t.Errorf("the other's lock: %d, want grace", got)
		}
		if got := s.untilGrace(ctx, b, yours); got != nfsv3.Denied {
			t.Errorf("the other's lock after grace: %d, want denied", got)
		}
		if got, err := a.Unlock(ctx, mine); err != nil || got != nfsv3.Granted {
			t.Errorf("unlock: %d, %v", got, err)
		}
		if got := s.lock(ctx, b, yours); got != nfsv3.Granted {
			t.Errorf("the other's lock: %d, want granted", got)
		}
	})
}

// killPart ends one of the companions at once.
func (s *site) killPart(name string) {
	s.t.Helper()
	p, err := process.Find(s.g.path(name))
	if err != nil || p == nil {
		s.t.Fatalf("%s: %v, %v", name, p, err)
	}
	if err := syscall.Kill(p.Identity().PID, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	<-p.Done()
	if h := s.g.Probe(s.t.Context(), ProbeOptions{NFSOnly: true}); h.NFS3 == nil || h.OK() {
		s.t.Errorf("probe without %s: %+v", name, h)
	}
}

// rpcbind forgets everything when it is killed. The one after it knows it all,
// and Ganesha is left alone.
func TestRPCBindIsReplaced(t *testing.T) {
	onBothWith(t, allVersions, func(t *testing.T, s *site) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s.start(s.tree(1))
		ports := func() map[string]uint16 {
			t.Helper()
			c := s.v3("127.0.0.1", "asks")
			known := map[string]uint16{}
			for name, p := range map[string]nfsv3.Procedure{
				"nfs": {Program: nfsv3.NFS, Version: 3}, "mount 1": {Program: nfsv3.Mount, Version: 1},
				"mount": {Program: nfsv3.Mount, Version: 3}, "locks": {Program: nfsv3.Locks, Version: 4}, "status": {Program: 100024, Version: 1},
			} {
				var err error
				if known[name], err = c.Port(ctx, p.Program, p.Version); err != nil {
					t.Fatal(err)
				}
			}
			return known
		}
		want := map[string]uint16{"nfs": 2049, "mount 1": nfs3.MountPort, "mount": nfs3.MountPort, "locks": nfs3.LockPort, "status": nfs3.StatPort}
		if d := cmp.Diff(want, ports()); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
		pid := s.pid()
		s.killPart("rpcbind")
		s.start()
		if s.pid() != pid {
			t.Error("Ganesha was replaced")
		}
		if d := cmp.Diff(want, ports()); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
		if h := s.g.Probe(ctx, ProbeOptions{}); !h.OK() {
			t.Errorf("probe: %+v", h)
		}
		// Another handle, as after a restart of the agent, finds all of it.
		before := s.parts()
		s.g = New(s.o)
		s.start()
		if d := cmp.Diff(before, s.parts()); d != "" {
			t.Errorf("adopted otherwise, -want +got:\n%s", d)
		}
	})
}

func (s *site) parts() map[string]int {
	s.t.Helper()
	pids := map[string]int{}
	for _, name := range []string{busDir, nfsdDir, "rpcbind", "statd"} {
		p, err := process.Find(s.g.path(name))
		if err != nil || p == nil {
			s.t.Fatalf("%s: %v, %v", name, p, err)
		}
		pids[name] = p.Identity().PID
	}
	return pids
}
