package ganesha

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-project/causeway/integration/golden"
)

func TestRenderServer(t *testing.T) {
	for _, r := range []release{{4, 3}, {6, 5}} {
		got, err := renderServer(server{
			Release:  r,
			StateDir: "/var/lib/causeway/gateways/blue", CacheDir: "/run/causeway/gateways/blue/var/cc",
			Lease: 10 * time.Second, Grace: 15 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		golden.Check(t, "server-"+r.String()+".conf", got)
	}
}

func TestRenderServerRefuses(t *testing.T) {
	good := server{StateDir: "/s", CacheDir: "/c", Lease: 10 * time.Second, Grace: 15 * time.Second}
	tests := map[string]func(*server){
		"lease below the least":   func(s *server) { s.Lease = time.Second },
		"lease with a fraction":   func(s *server) { s.Lease = 2500 * time.Millisecond },
		"grace below the least":   func(s *server) { s.Grace = 0 },
		"state directory missing": func(s *server) { s.StateDir = "" },
		"cache with a newline":    func(s *server) { s.CacheDir = "/a\nb" },
	}
	for name, change := range tests {
		s := good
		change(&s)
		if got, err := renderServer(s); err == nil {
			t.Errorf("%s: rendered %s", name, got)
		}
	}
}

func TestRenderBus(t *testing.T) {
	golden.Check(t, "bus.conf", renderBus("/run/causeway/gateways/a network & co/sock/bus"))
}

func rule(client string, level Level, squash Squash) Rule {
	return Rule{Client: netip.MustParsePrefix(client), Level: level, Squash: squash, AnonUID: 65534, AnonGID: 65533}
}

func TestRenderExport(t *testing.T) {
	tests := map[string]Export{
		"plain": {
			ID: 7, Path: "/run/causeway/exports/blue/7", Pseudo: "/docs", FSID: 4711,
			Rules: []Rule{rule("10.77.0.0/24", ReadWrite, SquashRoot)},
		},
		"nobody": {ID: 65535, Path: "/x", Pseudo: "/y", FSID: 1},
		"rules": {
			ID: 1, Path: "/x", Pseudo: "/deep/er", FSID: 1 << 63,
			Rules: []Rule{
				rule("10.77.0.5/32", ReadWrite, SquashNone),
				rule("fd77::5/128", ReadOnly, SquashRootID),
				rule("fd77::/64", ReadOnly, SquashAll),
				rule("0.0.0.0/0", ReadOnly, SquashRoot),
				rule("::/0", ReadOnly, SquashRoot),
			},
		},
		"quotes":  {ID: 2, Path: `/o'brien {}; #`, Pseudo: `/"a" \ $HOME %include ; }`, FSID: 2},
		"scripts": {ID: 3, Path: "/メディア/データ", Pseudo: "/Ünïcode ✓", FSID: 3},
	}
	for name, e := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Versions(nil).renderExport(e)
			if err != nil {
				t.Fatal(err)
			}
			golden.Check(t, "export-"+name+".conf", got)
		})
	}
}

func TestRenderExportRefuses(t *testing.T) {
	tests := map[string]func(*Export){
		"id 0":                   func(e *Export) { e.ID = 0 },
		"no file system id":      func(e *Export) { e.FSID = 0 },
		"largest file system id": func(e *Export) { e.FSID = 1<<64 - 1 },
		"no path":                func(e *Export) { e.Path = "" },
		"relative path":          func(e *Export) { e.Path = "srv" },
		"path with ..":           func(e *Export) { e.Path = "/srv/../etc" },
		"path of the root":       func(e *Export) { e.Path = "/" },
		"pseudo root":            func(e *Export) { e.Pseudo = "/" },
		"pseudo with an end":     func(e *Export) { e.Pseudo = "/a/" },
		"pseudo with an empty":   func(e *Export) { e.Pseudo = "/a//b" },
		"pseudo with a newline":  func(e *Export) { e.Pseudo = "/a\nb" },
		"pseudo with NUL":        func(e *Export) { e.Pseudo = "/a\x00b" },
		"pseudo with DEL":        func(e *Export) { e.Pseudo = "/a\x7fb" },
		"pseudo turned around":   func(e *Export) { e.Pseudo = "/a\u202eb" },
		"pseudo not UTF-8":       func(e *Export) { e.Pseudo = "/a\xffb" },
		"backslash at the end":   func(e *Export) { e.Pseudo = `/a\` },
		"two at the end":         func(e *Export) { e.Pseudo = `/a\\` },
		"long part":              func(e *Export) { e.Pseudo = "/" + strings.Repeat("x", 256) },
		"long path":              func(e *Export) { e.Pseudo = strings.Repeat("/xxxx", 1000) },
		"unknown level":          func(e *Export) { e.Rules[0].Level = "admin" },
		"no level":               func(e *Export) { e.Rules[0].Level = "" },
		"unknown squash":         func(e *Export) { e.Rules[0].Squash = "some" },
		"user that is root":      func(e *Export) { e.Rules[0].AnonUID = NoID },
		"group that is root":     func(e *Export) { e.Rules[0].AnonGID = NoID },
		"no client":              func(e *Export) { e.Rules[0].Client = netip.Prefix{} },
		"host bits":              func(e *Export) { e.Rules[0].Client = netip.MustParsePrefix("10.0.0.1/8") },
		"mapped client":          func(e *Export) { e.Rules[0].Client = netip.MustParsePrefix("::ffff:10.0.0.0/104") },
		"IPv6 /100":              func(e *Export) { e.Rules[0].Client = netip.MustParsePrefix("fd77::/100") },
		"IPv6 /127":              func(e *Export) { e.Rules[0].Client = netip.MustParsePrefix("fd77::/127") },
	}
	for name, change := range tests {
		e := Export{ID: 1, Path: "/p", Pseudo: "/q", FSID: 1, Rules: []Rule{rule("10.0.0.0/8", ReadOnly, SquashRoot)}}
		change(&e)
		if got, err := Versions(nil).renderExport(e); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: err = %v, want ErrRefused; rendered %s", name, err, got)
		}
	}
}

// FuzzRenderExport: whatever a path or pseudo path holds, it is refused or
// comes out as the one value that it was.
func FuzzRenderExport(f *testing.F) {
	for _, s := range []string{
		"/a", "/a b", `/a'b`, `/a"b`, `/a\`, `/a\"`, "/a;b", "/a}b", "/a#b", "/a\nb", "/a\x00b", "/%url rados://a/b", "/'", `/"`, `/\'`, "/é", "/a/../b", "//",
	} {
		f.Add(s, "/ok")
		f.Add("/ok", s)
	}
	f.Fuzz(func(t *testing.T, path, pseudo string) {
		e := Export{ID: 9, Path: path, Pseudo: pseudo, FSID: 5, Rules: []Rule{rule("10.0.0.0/8", ReadOnly, SquashRoot)}}
		text, err := Versions(nil).renderExport(e)
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("err = %v, want ErrRefused", err)
			}
			return
		}
		plain := e
		plain.Path, plain.Pseudo = "/P", "/Q"
		want, err := Versions(nil).renderExport(plain)
		if err != nil {
			t.Fatal(err)
		}
		wantTokens := tokens(t, want)
		for i, w := range wantTokens {
			switch {
			case w == "'/P'":
				wantTokens[i] = "'" + path + "'"
			case w == "'/Q'":
				wantTokens[i] = "'" + pseudo + "'"
			case strings.HasPrefix(w, "'cw-"), strings.HasPrefix(w, "cw-"):
				wantTokens[i] = tag(e)
			}
		}
		if diff := cmp.Diff(wantTokens, tokens(t, text)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

// tokens reads text as src/config_parsing/conf_lex.l of Ganesha does: the
// longest match wins, a double-quoted string goes on over a backslash and the
// character after it, or ends there, whichever is longer. Quoted values come
// out as they are read, between single quotes.
func tokens(t *testing.T, text string) []string {
	t.Helper()
	var out []string
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case strings.IndexByte(" \t\r\f\n", c) >= 0:
			i++
		case c == '#':
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return out
			}
			i += end
		case c == '"':
			end := closing(text[i:])
			if end < 0 {
				t.Fatalf("double quote without end in %q", text)
			}
			out = append(out, "'"+unescaped(text[i+1:i+end])+"'")
			i += end + 1
		case strings.IndexByte("={},;", c) >= 0:
			out = append(out, string(c))
			i++
		default:
			end := strings.IndexAny(text[i:], " \t\r\f\n={},;#'\"")
			if end < 0 {
				end = len(text) - i
			}
			out = append(out, text[i:i+end])
			i += end
		}
	}
	return out
}

// unescaped is what save_token of src/config_parsing/analyse.c makes of the
// text between two double quotes.
func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
			if at := strings.IndexByte("ntr", s[i]); at >= 0 {
				b.WriteByte("\n\t\r"[at])
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// closing finds the last quote at which the lexer's expression can end: after
// any quote it may only go on where a backslash stands before it.
func closing(s string) int {
	last := -1
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			continue
		}
		last = i
		if s[i-1] != '\\' {
			return last
		}
	}
	return last
}

func TestBusAddress(t *testing.T) {
	if got, want := busAddress("/run/a b/ü;,=%'x"), "unix:path=/run/a%20b/%c3%bc%3b%2c%3d%25%27x"; got != want {
		t.Errorf("busAddress = %q, want %q", got, want)
	}
}

func TestSplit(t *testing.T) {
	tests := []struct {
		in   string
		want []string
	}{
		{"10.0.0.0/8", []string{"10.0.0.0/8"}},
		{"10.0.0.1/32", []string{"10.0.0.1"}},
		{"0.0.0.0/0", []string{"0.0.0.0/1", "128.0.0.0/1"}},
		{"::/0", []string{"::/1", "8000::/1"}},
		{"fd77::/64", []string{"fd77::/64"}},
		{"fd77::/99", []string{"fd77::/99"}},
		{"fd77::1/128", []string{"fd77::1"}},
	}
	for _, tt := range tests {
		got, err := clientTokens(netip.MustParsePrefix(tt.in))
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", tt.in, diff)
		}
	}
}
