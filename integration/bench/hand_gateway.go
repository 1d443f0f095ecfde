package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"
)

// A handGateway is Ganesha and its bus as an experienced person would start
// them: in a namespace that is there already, in the foreground, without a
// jail. Its configuration is the agent's own, with other paths.
type handGateway struct {
	place
	table   string // of mounts that it sees; empty is the host's
	bus     *exec.Cmd
	ganesha *exec.Cmd
}

// A place for one.
type place struct {
	dir   string
	netns string // path of the network namespace
}

// An export that the hand-made gateway serves.
type handExport struct {
	id   int
	path string
}

func (e handExport) pseudo() string { return fmt.Sprintf("/hand-%d", e.id) }

// A template is what the agent rendered: the server's part, and one EXPORT.
type template struct {
	server, export string
}

// readTemplate splits a ganesha.conf.
func readTemplate(path string) (template, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return template{}, err
	}
	parts := regexp.MustCompile(`(?m)^EXPORT \{$`).Split(string(data), -1)
	for _, export := range parts[1:] {
		// What nobody may reach only holds a file system for the others.
		if strings.Contains(export, "CLIENT {") {
			return template{server: parts[0], export: "EXPORT {" + export}, nil
		}
	}
	return template{}, fmt.Errorf("%s: no export with a client", path)
}

// render is the template for a directory and exports. Every setting but the
// names is the agent's.
func (t template) render(dir string, exports ...handExport) (string, error) {
	text, err := t.renderServer(dir)
	if err != nil {
		return "", err
	}
	for _, e := range exports {
		block, err := t.renderExport(e)
		if err != nil {
			return "", err
		}
		text += block
	}
	return text, nil
}

func (t template) renderServer(dir string) (string, error) {
	return replaceSettings(t.server, map[string]string{
		"RecoveryRoot": "'" + filepath.Join(dir, "recovery") + "'",
		"CCacheDir":    "'" + filepath.Join(dir, "cc") + "'",
	})
}

func (t template) renderExport(e handExport) (string, error) {
	return replaceSettings(t.export, map[string]string{
		"Export_Id":     fmt.Sprint(e.id),
		"Path":          "'" + e.path + "'",
		"Pseudo":        "'" + e.pseudo() + "'",
		"Tag":           fmt.Sprintf("hand-%d", e.id),
		"Filesystem_Id": fmt.Sprintf("%d.0", 1000+e.id),
	})
}

func replaceSettings(text string, values map[string]string) (string, error) {
	for key, value := range values {
		re := regexp.MustCompile(`(?m)^(\s*` + key + ` = ).*;$`)
		if n := len(re.FindAllString(text, -1)); n != 1 {
			return "", fmt.Errorf("the agent's configuration has %s %d times, want once", key, n)
		}
		text = re.ReplaceAllString(text, "${1}"+strings.ReplaceAll(value, "$", "$$")+";")
	}
	return text, nil
}

// newHandGateway writes what has to lie there before the start.
func newHandGateway(p place, t template, exports ...handExport) (*handGateway, error) {
	g := &handGateway{place: p}
	for _, d := range []string{"recovery", "cc"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	conf, err := t.render(p.dir, exports...)
	if err != nil {
		return nil, err
	}
	const bus = `<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="root"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
</policy></busconfig>`
	return g, errors.Join(
		os.WriteFile(filepath.Join(g.dir, "ganesha.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(g.dir, "bus.conf"), fmt.Appendf(nil, bus, g.socket()), 0o600),
	)
}

func (g *handGateway) socket() string { return filepath.Join(g.dir, "bus") }

// start starts the bus, if it does not run, and Ganesha. It does not wait
// until Ganesha serves: the client does.
func (g *handGateway) start() error {
	if g.bus == nil {
		if err := g.startBus(); err != nil {
			return err
		}
	}
	args := []string{"nsenter", "--net=" + g.netns}
	lib, covered := radosLibrary()
	script := `exec "$@"`
	if covered {
		script = `mount --bind /dev/null "$LIBRARY" && ` + script
	}
	if g.table != "" {
		script = `mount --bind "$TABLE" "/proc/$$/mounts" && ` + script // which is /etc/mtab
	}
	if covered || g.table != "" {
		args = append(args, "unshare", "-m", "sh", "-c", script, "sh")
	}
	args = append(args, "ganesha.nfsd", "-F", "-N", "NIV_EVENT", "-f", filepath.Join(g.dir, "ganesha.conf"),
		"-L", filepath.Join(g.dir, "log"), "-p", filepath.Join(g.dir, "pid"))
	g.ganesha = exec.Command(args[0], args[1:]...)
	g.ganesha.Env = append(os.Environ(), "LIBRARY="+lib, "TABLE="+g.table, "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+g.socket(),
		"MALLOC_ARENA_MAX=2", "MALLOC_MMAP_THRESHOLD_=131072", "MALLOC_TRIM_THRESHOLD_=131072")
	g.ganesha.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return g.ganesha.Start()
}

// hideMounts gives Ganesha a mount table without what is mounted below dir.
func (g *handGateway) hideMounts(dir string) error {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	lines := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(line string) bool {
		return strings.Contains(line, " "+dir+"/")
	})
	g.table = filepath.Join(g.dir, "mounts")
	return os.WriteFile(g.table, []byte(strings.Join(lines, "")), 0o600)
}

// radosLibrary is a library that Ganesha loads wherever it is installed, which
// takes longer than all the rest of a start. The agent's gateways do not see
// it, and the hand-made one must not lose by it.
func radosLibrary() (path string, ok bool) {
	for _, dir := range []string{"/usr/lib/ganesha", "/usr/lib/x86_64-linux-gnu/ganesha"} {
		path := filepath.Join(dir, "libganesha_rados_urls.so")
		if _, err := os.Stat(path); err == nil {
			return path, true
		}
	}
	return "", false
}

// startBus returns when the bus listens, which it says by printing its address.
func (g *handGateway) startBus() error {
	if err := os.Remove(g.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	g.bus = exec.Command("dbus-daemon", "--config-file="+filepath.Join(g.dir, "bus.conf"),
		"--nofork", "--nopidfile", "--nosyslog", "--print-address")
	g.bus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := g.bus.StdoutPipe()
	if err != nil {
		return err
	}
	if err := g.bus.Start(); err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("bus did not start: %w", err)
	}
	return nil
}

// kill is kill -9 of Ganesha alone, and returns when it has ended.
func (g *handGateway) kill() error {
	if err := g.ganesha.Process.Kill(); err != nil {
		return err
	}
	_ = g.ganesha.Wait() // "signal: killed"
	g.ganesha = nil
	return nil
}

// stop ends both, and forgets the gateway's clients.
func (g *handGateway) stop() error {
	var errs []error
	for _, cmd := range []*exec.Cmd{g.ganesha, g.bus} {
		if cmd == nil || cmd.Process == nil {
			continue
		}
		errs = append(errs, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	g.ganesha, g.bus = nil, nil
	return errors.Join(append(errs, os.RemoveAll(g.dir))...)
}

// log is the end of Ganesha's log.
func (g *handGateway) log() string {
	data, _ := os.ReadFile(filepath.Join(g.dir, "log"))
	return string(data[max(0, len(data)-1000):])
}

// A handBus is a connection to the gateway's bus, made before the clock runs.
type handBus struct {
	dir  string
	conn *dbus.Conn
}

func (g *handGateway) connectBus() (*handBus, error) {
	conn, err := dbus.Connect("unix:path=" + g.socket())
	if err != nil {
		return nil, err
	}
	return &handBus{dir: g.dir, conn: conn}, nil
}

func (b *handBus) manager() dbus.BusObject {
	return b.conn.Object("org.ganesha.nfsd", "/org/ganesha/nfsd/ExportMgr")
}

// add writes the export's file and calls AddExport, no more.
func (b *handBus) add(ctx context.Context, e handExport, block string) error {
	return b.load(ctx, "AddExport", e, block)
}

func (b *handBus) load(ctx context.Context, method string, e handExport, block string) error {
	file := filepath.Join(b.dir, "add.conf")
	if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
		return err
	}
	var message string
	err := b.manager().CallWithContext(ctx, "org.ganesha.nfsd.exportmgr."+method, 0,
		file, fmt.Sprintf("EXPORT(Export_Id=%d)", e.id)).Store(&message)
	if err == nil && strings.Contains(message, "Errors found") {
		err = errors.New(message)
	}
	return err
}

// change writes the export's file and calls UpdateExport.
func (b *handBus) change(ctx context.Context, e handExport, block string) error {
	return b.load(ctx, "UpdateExport", e, block)
}

func (b *handBus) remove(ctx context.Context, e handExport) error {
	return b.manager().CallWithContext(ctx, "org.ganesha.nfsd.exportmgr.RemoveExport", 0, uint16(e.id)).Err
}
