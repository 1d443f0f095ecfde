package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"
)

// A HostState is all that Causeway has on this host, one sorted line for each
// thing, without what differs from one start to the next such as process ids:
//
//	device vm1 ua-cw-docs-vm1 tag=docs
//	ledger attachment/docs-vm1.json
//	link cw0a1b2c3d4e5f
//	mount mounts/cw-0123456789abcdef0123
//	netns cw-blue
//	process ganesha.nfsd gateways/blue
//	run gateways/blue
//	state gateways/blue
type HostState []string

// String is one line for each thing.
func (s HostState) String() string { return strings.Join(s, "\n") }

// Diff of two states: "+" is only in s, "-" only in want. Empty if they agree.
func (s HostState) Diff(want HostState) string {
	var lines []string
	for _, l := range s {
		if !slices.Contains(want, l) {
			lines = append(lines, "+ "+l)
		}
	}
	for _, l := range want {
		if !slices.Contains(s, l) {
			lines = append(lines, "- "+l)
		}
	}
	return strings.Join(lines, "\n")
}

// With adds lines.
func (s HostState) With(lines ...string) HostState {
	all := append(slices.Clone(s), lines...)
	slices.Sort(all)
	return all
}

// Without leaves out the lines of some kinds, "ledger" for example.
func (s HostState) Without(kinds ...string) HostState {
	return slices.DeleteFunc(slices.Clone(s), func(l string) bool {
		kind, _, _ := strings.Cut(l, " ")
		return slices.Contains(kinds, kind)
	})
}

// prefix of all that the agent makes, and of its devices' aliases.
const (
	prefix      = "cw"
	aliasPrefix = "ua-cw-"
)

// A HostScope says where to look.
type HostScope struct {
	RunDir   string // required: the agent's
	StateDir string // required: the agent's
	Libvirt  string // URI; empty: no devices
}

// HostState of the host with this agent. l may be nil.
func (a *Agent) HostState(ctx context.Context, l *Libvirt) (HostState, error) {
	scope := HostScope{RunDir: a.RunDir, StateDir: a.StateDir}
	if l != nil {
		scope.Libvirt = l.URI
	}
	return Observe(ctx, scope)
}

// Observe looks at this host. It touches nothing below a mount.
func Observe(ctx context.Context, scope HostScope) (HostState, error) {
	var s HostState
	var errs []error
	for _, look := range []func(HostScope) ([]string, error){
		namespaces, links, mounts, processes, devices, runDirectory, stateDirectory,
	} {
		lines, err := look(scope)
		s = append(s, lines...)
		errs = append(errs, err)
	}
	slices.Sort(s)
	return s, errors.Join(append(errs, ctx.Err())...)
}

func namespaces(HostScope) ([]string, error) {
	return entries("/run/netns", "netns", prefix)
}

// entries of a directory, which need not be there, that begin with a prefix.
func entries(dir, kind, prefix string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var lines []string
	for _, e := range list {
		if strings.HasPrefix(e.Name(), prefix) {
			lines = append(lines, kind+" "+e.Name())
		}
	}
	return lines, nil
}

func links(HostScope) ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, l := range list {
		if strings.HasPrefix(l.Name, prefix) {
			lines = append(lines, "link "+l.Name)
		}
	}
	return lines, nil
}

func mounts(scope HostScope) ([]string, error) {
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(scope.RunDir))
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, m := range list {
		at, err := filepath.Rel(scope.RunDir, m.Mountpoint)
		if err != nil {
			return nil, err
		}
		line := "mount " + at
		if slices.Contains(strings.Split(m.Options, ","), "ro") {
			line += " ro"
		}
		lines = append(lines, line)
	}
	return counted(lines), nil
}

// counted says how often a line is there, where that is not once: a mount over
// a mount, two processes for one thing.
func counted(lines []string) []string {
	slices.Sort(lines)
	var out []string
	for len(lines) > 0 {
		n := 1
		for n < len(lines) && lines[n] == lines[0] {
			n++
		}
		line := lines[0]
		if n > 1 {
			line += fmt.Sprintf(" x%d", n)
		}
		out, lines = append(out, line), lines[n:]
	}
	return out
}

// processes that the agent starts, known by a path of its run directory among
// their arguments. A virtiofsd is two: one waits for the other.
func processes(scope HostScope) ([]string, error) {
	list, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, p := range list {
		data, err := os.ReadFile(filepath.Join(p, "cmdline")) // empty of zombies
		if err != nil || len(data) == 0 {
			continue
		}
		argv := strings.Split(string(data), "\x00")
		name := filepath.Base(argv[0])
		switch name {
		case "ganesha.nfsd", "dbus-daemon", "rpcbind", "rpc.statd", "virtiofsd", "causeway-launch", "causeway-keeper":
			if !anothers(argv, scope.RunDir) {
				lines = append(lines, "process "+name+" "+owner(argv, scope.RunDir))
			}
		}
	}
	return counted(lines), nil
}

// anotherRun is the run directory of an agent of this program, see NewAgent.
var anotherRun = regexp.MustCompile(`/run/causeway(-[a-z]+)?/`)

// anothers says whether argv is of an agent with another run directory.
func anothers(argv []string, run string) bool {
	found := anotherRun.FindString(strings.Join(argv, "\x00"))
	return found != "" && found != run+"/"
}

// owner is the first piece of the run directory that argv names: gateways/blue.
func owner(argv []string, run string) string {
	for _, arg := range argv {
		_, rest, found := strings.Cut(arg, run+"/")
		if pieces := strings.FieldsFunc(rest, func(r rune) bool { return r == '/' || r == ',' }); found && len(pieces) > 1 {
			return pieces[0] + "/" + pieces[1]
		}
	}
	return "?"
}

func devices(scope HostScope) ([]string, error) {
	if scope.Libvirt == "" {
		return nil, nil
	}
	c, err := libvirt.NewConnect(scope.Libvirt)
	if err != nil {
		return nil, err
	}
	lines, err := devicesOf(c)
	return lines, errors.Join(err, closed(c))
}

func devicesOf(c *libvirt.Connect) ([]string, error) {
	domains, err := c.ListAllDomains(0)
	if err != nil {
		return nil, err
	}
	var lines []string
	var errs []error
	for _, d := range domains {
		text, err := d.GetXMLDesc(0)
		var domain libvirtxml.Domain
		if err == nil {
			err = domain.Unmarshal(text)
		}
		errs = append(errs, err, d.Free())
		if domain.Devices == nil {
			continue
		}
		for _, f := range domain.Devices.Filesystems {
			if f.Alias != nil && strings.HasPrefix(f.Alias.Name, aliasPrefix) && f.Target != nil {
				lines = append(lines, fmt.Sprintf("device %s %s tag=%s", domain.Name, f.Alias.Name, f.Target.Dir))
			}
		}
	}
	return lines, errors.Join(errs...)
}

// runDirectory lists what belongs to one object each; what is deeper comes and
// goes with the daemons.
func runDirectory(scope HostScope) ([]string, error) {
	var lines []string
	for _, pattern := range []string{"gateways/*", "exports/*", "exports/*/*", "mounts/*", "virtiofs/*"} {
		found, err := filepath.Glob(filepath.Join(scope.RunDir, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			lines = append(lines, "run "+strings.TrimPrefix(f, scope.RunDir+"/"))
		}
	}
	return lines, nil
}

func stateDirectory(scope HostScope) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(filepath.Join(scope.StateDir, "ledger"), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		lines = append(lines, "ledger "+strings.TrimPrefix(path, filepath.Join(scope.StateDir, "ledger")+"/"))
		return nil
	})
	gateways, e := entries(filepath.Join(scope.StateDir, "gateways"), "state", "")
	for i, g := range gateways {
		gateways[i] = strings.Replace(g, "state ", "state gateways/", 1)
	}
	return append(lines, gateways...), errors.Join(err, e)
}
