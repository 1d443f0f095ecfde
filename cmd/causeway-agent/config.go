package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-project/causeway/agent/device"
	"github.com/causeway-project/causeway/agent/process"
	"github.com/causeway-project/causeway/ganesha"
)

// A config is the whole configuration. packaging/agent.yaml explains every
// field and holds the defaults.
type config struct {
	StateDir    string        `yaml:"state_dir"`
	RunDir      string        `yaml:"run_dir"`
	Socket      socketConfig  `yaml:"socket"`
	HTTP        httpConfig    `yaml:"http"`
	Log         logConfig     `yaml:"log"`
	Libvirt     libvirtConfig `yaml:"libvirt"`
	Launcher    string        `yaml:"launcher"`
	Keeper      string        `yaml:"keeper"`
	Supervisor  string        `yaml:"supervisor"`
	Local       localConfig   `yaml:"local"`
	Gateway     gatewayConfig `yaml:"gateway"`
	Virtiofsd   daemonConfig  `yaml:"virtiofsd"`
	OVS         ovsConfig     `yaml:"ovs"`
	Resync      duration      `yaml:"resync"`
	CallTimeout duration      `yaml:"call_timeout"`
}

type socketConfig struct {
	Path      string   `yaml:"path"`
	Mode      fileMode `yaml:"mode"`
	Group     string   `yaml:"group"`
	AllowUIDs []uint32 `yaml:"allow_uids"`
	AllowGIDs []uint32 `yaml:"allow_gids"`
}

type httpConfig struct {
	Address          string `yaml:"address"`
	AllowNonLoopback bool   `yaml:"allow_non_loopback"`
}

type logConfig struct {
	Level  slog.Level `yaml:"level"`
	Format string     `yaml:"format"`
}

type libvirtConfig struct {
	Enabled bool   `yaml:"enabled"`
	URI     string `yaml:"uri"`
}

type localConfig struct {
	Pools map[string]string `yaml:"pools"`
}

type gatewayConfig struct {
	Lease  duration     `yaml:"lease"`
	Grace  duration     `yaml:"grace"`
	Limits limitsConfig `yaml:"limits"`
}

type daemonConfig struct {
	Settings settingsConfig `yaml:"settings"`
	Limits   limitsConfig   `yaml:"limits"`
}

// settingsConfig is what attachments have that do not ask for others.
type settingsConfig struct {
	Cache     string `yaml:"cache"`
	Xattr     bool   `yaml:"xattr"`
	PosixACL  bool   `yaml:"posix_acl"`
	Locks     string `yaml:"locks"`
	QueueSize int    `yaml:"queue_size"`
	Threads   int    `yaml:"threads"`
}

func settingsDefaults() settingsConfig {
	b := device.Builtin()
	return settingsConfig{
		Cache: string(b.Cache), Xattr: b.Xattr == device.On, PosixACL: b.PosixACL == device.On,
		Locks: string(b.Locks), QueueSize: b.QueueSize, Threads: b.Threads,
	}
}

// settings of attachments, with the limits of those that ask for no others.
func (d daemonConfig) settings() device.Settings {
	s := device.Settings{
		Cache: device.Cache(d.Settings.Cache), Xattr: device.Off, PosixACL: device.Off, Locks: device.Locks(d.Settings.Locks),
		QueueSize: d.Settings.QueueSize, Threads: d.Settings.Threads,
		Memory: uint64(d.Limits.Memory), OpenFiles: uint64(d.Limits.Files),
	}
	if d.Settings.Xattr {
		s.Xattr = device.On
	}
	if d.Settings.PosixACL {
		s.PosixACL = device.On
	}
	return s
}

type ovsConfig struct {
	Command  string `yaml:"command"`
	Database string `yaml:"database"`
}

type limitsConfig struct {
	Memory amount `yaml:"memory"`
	Tasks  amount `yaml:"tasks"`
	Files  amount `yaml:"files"`
}

func (l limitsConfig) limits() process.Limits {
	return process.Limits{Memory: uint64(l.Memory), Tasks: uint64(l.Tasks), Files: uint64(l.Files)}
}

// Who puts long-lived processes where their limits bind them.
const (
	supervisorAuto    = "auto"
	supervisorDirect  = "direct"
	supervisorSystemd = "systemd"
)

const defaultGroup = "causeway"

func defaults() config {
	return config{
		StateDir:   "/var/lib/causeway",
		RunDir:     "/run/causeway",
		Socket:     socketConfig{Mode: 0o660, Group: defaultGroup},
		HTTP:       httpConfig{Address: "127.0.0.1:9477"},
		Log:        logConfig{Level: slog.LevelInfo, Format: "text"},
		Libvirt:    libvirtConfig{Enabled: true, URI: "qemu:///system"},
		Supervisor: supervisorAuto,
		Gateway: gatewayConfig{Lease: duration(10 * time.Second), Grace: duration(15 * time.Second),
			Limits: limitsConfig{Memory: 512 << 20, Tasks: 512, Files: 65536}},
		OVS:         ovsConfig{Command: "ovs-vsctl"},
		Virtiofsd:   daemonConfig{Settings: settingsDefaults(), Limits: limitsConfig{Tasks: 512, Files: 1 << 20}},
		Resync:      duration(time.Minute),
		CallTimeout: duration(2 * time.Minute),
	}
}

// parseConfig reads a file's text; a field that it does not have keeps its
// default. The error names all that is wrong, each with its line.
func parseConfig(name string, data []byte) (config, error) {
	c := defaults()
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return config{}, fmt.Errorf("%s: %w", name, err)
	}
	places := keys{name: name, lines: map[string]int{}}
	if len(document.Content) > 0 {
		if err := places.read(document.Content[0], c); err != nil {
			return config{}, err
		}
		if err := document.Decode(&c); err != nil {
			return config{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.Socket.Path == "" {
		c.Socket.Path = filepath.Join(c.RunDir, "agent.sock")
	}
	if c.Local.Pools == nil {
		c.Local.Pools = map[string]string{"default": "/srv/causeway"}
	}
	if c.Launcher == "" {
		c.Launcher = findLauncher()
	}
	if c.Keeper == "" {
		c.Keeper = filepath.Join(filepath.Dir(c.Launcher), "causeway-keeper")
	}
	var wrong []error
	for _, p := range c.problems() {
		wrong = append(wrong, places.at(p.key, p.text))
	}
	return c, errors.Join(wrong...)
}

const packagedLauncher = "/usr/libexec/causeway/causeway-launch"

// findLauncher prefers the one that was built with this program.
func findLauncher() string {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "causeway-launch")
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return packagedLauncher
}

// library is what gateways load, beside the launcher.
func (c config) library() string {
	return filepath.Join(filepath.Dir(c.Launcher), ganesha.Library)
}

// A problem is a value that cannot be.
type problem struct{ key, text string }

const (
	maxSocketPath = 107 // bytes, sun_path of unix(7) without its zero byte
	maxID         = 63  // bytes, of attachments and networks
	maxRunDir     = maxSocketPath - len("/virtiofs/") - maxID - len("/sock")
)

func (c config) problems() []problem {
	var ps []problem
	check := func(ok bool, key, format string, args ...any) {
		if !ok {
			ps = append(ps, problem{key, fmt.Sprintf(format, args...)})
		}
	}
	path := func(key, p string) {
		check(filepath.IsAbs(p) && filepath.Clean(p) == p && p != "/", key, "%q is not a clean absolute path", p)
	}
	atLeast := func(key string, d duration, least time.Duration) {
		check(time.Duration(d) >= least, key, "%s is less than %s", d, least)
	}
	path("state_dir", c.StateDir)
	path("run_dir", c.RunDir)
	check(len(c.RunDir) <= maxRunDir, "run_dir", "%q is longer than %d bytes, so that the sockets below it would not fit", c.RunDir, maxRunDir)
	path("launcher", c.Launcher)
	path("keeper", c.Keeper)
	path("socket.path", c.Socket.Path)
	check(len(c.Socket.Path)+len(newSuffix) <= maxSocketPath, "socket.path", "%q is too long for a unix socket", c.Socket.Path)
	check(c.Socket.Mode&^0o777 == 0, "socket.mode", "%s has bits beyond 0777", c.Socket.Mode)
	check(c.Socket.Group != "", "socket.group", "is empty; name a group, for example root")
	if text := c.HTTP.problem(); text != "" {
		check(false, "http.address", "%s", text)
	}
	check(c.Log.Format == "text" || c.Log.Format == "json", "log.format", "%q is neither text nor json", c.Log.Format)
	check(!c.Libvirt.Enabled || c.Libvirt.URI != "", "libvirt.uri", "is empty; set it, or set libvirt.enabled to false")
	for name, dir := range c.Local.Pools {
		key := "local.pools." + name
		check(name != "", "local.pools", "a pool has no name")
		path(key, dir)
	}
	atLeast("gateway.lease", c.Gateway.Lease, 2*time.Second)
	check(c.Gateway.Lease.whole(), "gateway.lease", "%s is not whole seconds, as Ganesha has them", c.Gateway.Lease)
	check(c.Gateway.Grace.whole(), "gateway.grace", "%s is not whole seconds, as Ganesha has them", c.Gateway.Grace)
	check(c.Gateway.Grace >= c.Gateway.Lease, "gateway.grace", "%s is shorter than the lease of %s: clients could not reclaim", c.Gateway.Grace, c.Gateway.Lease)
	least := func(key string, a, least amount) {
		check(a == 0 || a >= least, key, "%s is less than %s, the least that works", a, least)
	}
	// Measured: an idle gateway has 19 threads, and 8 to 12 MB.
	for key, l := range map[string]limitsConfig{"gateway.limits": c.Gateway.Limits, "virtiofsd.limits": c.Virtiofsd.Limits} {
		least(key+".memory", l.Memory, 64<<20)
		least(key+".tasks", l.Tasks, 128)
		check(l.Files != 0, key+".files", "none is more than any host allows; give a number")
		// Ganesha takes 1,024 connections, and spins where it has no descriptor for one more.
		least(key+".files", l.Files, 4096)
	}
	if err := c.Virtiofsd.settings().Validate(); err != nil {
		check(false, "virtiofsd.settings", "%v", err)
	}
	check(c.OVS.Command != "" && (filepath.Base(c.OVS.Command) == c.OVS.Command || filepath.IsAbs(c.OVS.Command)), "ovs.command",
		"%q is neither the name of a program nor an absolute path", c.OVS.Command)
	kind, where, _ := strings.Cut(c.OVS.Database, ":")
	check(c.OVS.Database == "" || slices.Contains([]string{"unix", "tcp", "ssl"}, kind) && where != "", "ovs.database",
		"%q is not like unix:/run/openvswitch/db.sock, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT", c.OVS.Database)
	check(c.Supervisor == supervisorAuto || c.Supervisor == supervisorDirect || c.Supervisor == supervisorSystemd,
		"supervisor", "%q is none of auto, direct and systemd", c.Supervisor)
	atLeast("resync", c.Resync, time.Second)
	atLeast("call_timeout", c.CallTimeout, time.Second)
	return ps
}

// problem says what is wrong with the address; empty is switched off.
func (h httpConfig) problem() string {
	if h.Address == "" {
		return ""
	}
	a, err := netip.ParseAddrPort(h.Address)
	switch {
	case err != nil:
		return fmt.Sprintf("%q is not ADDRESS:PORT with a numeric address, for example 127.0.0.1:9477", h.Address)
	case !a.Addr().IsLoopback() && !h.AllowNonLoopback:
		return fmt.Sprintf("%s is not on loopback, and whoever reaches it can read about this host; "+
			"set http.allow_non_loopback to true if that is meant", a.Addr())
	}
	return ""
}

// A duration is written as Go writes it: 90s, 2m, 1h30m.
type duration time.Duration

func (d duration) String() string { return time.Duration(d).String() }

func (d duration) whole() bool { return time.Duration(d)%time.Second == 0 }

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not a duration like 90s or 2m", n.Line, n.Value)}}
	}
	*d = duration(v)
	return nil
}

// A fileMode is octal, with quotes or without, which YAML's own numbers are
// not in every version of YAML.
type fileMode os.FileMode

func (m fileMode) String() string { return fmt.Sprintf("%04o", uint32(m)) }

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *fileMode) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(n.Value, 8, 32)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not a mode like 0660", n.Line, n.Value)}}
	}
	*m = fileMode(v)
	return nil
}

// An amount is written as a number, with K, M or G for the powers of 1024, or
// as "none" for no limit, which is 0.
type amount uint64

const noAmount = "none"

func (a amount) String() string {
	if a == 0 {
		return noAmount
	}
	for _, u := range []struct {
		letter string
		is     amount
	}{{"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}} {
		if a%u.is == 0 {
			return strconv.FormatUint(uint64(a/u.is), 10) + u.letter
		}
	}
	return strconv.FormatUint(uint64(a), 10)
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (a *amount) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == noAmount {
		*a = 0
		return nil
	}
	digits, factor := n.Value, uint64(1)
	if i := strings.IndexAny(digits, "KMG"); i > 0 && i == len(digits)-1 {
		factor = map[byte]uint64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[digits[i]]
		digits = digits[:i]
	}
	v, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || v == 0 || v > math.MaxInt64/factor {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not an amount like 512, 64K or 1G, nor none", n.Line, n.Value)}}
	}
	*a = amount(v * factor)
	return nil
}
