// Causeway-agent serves the node API of one hypervisor and makes the host
// agree with what its callers asked for.
//
// Exit codes: 0 stopped; 1 failed, worth starting again; 2 wrong usage; 78 the
// configuration must be corrected first (EX_CONFIG of sysexits.h).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/causeway-project/causeway/agent/rpc"
)

const defaultConfig = "/etc/causeway/agent.yaml"

const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78
)

func main() {
	// A second signal ends the process at once, as if it had no handler.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("causeway-agent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", defaultConfig, "configuration `file`; the default one may be missing")
	check := flags.Bool("check-config", false, "read the configuration, say what is wrong with it, and exit")
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "causeway-agent: argument %q is not understood; see --help\n", flags.Arg(0))
		return exitUsage
	}
	if *showVersion {
		fmt.Fprintf(stdout, "causeway-agent %s\n", version())
		return exitOK
	}
	cfg, err := readConfig(*path)
	if err != nil {
		fmt.Fprintf(stderr, "causeway-agent: %v\n", err)
		return exitConfig
	}
	if *check {
		fmt.Fprintln(stdout, "configuration is good")
		return exitOK
	}
	log := newLogger(cfg.Log, stderr)
	if err := serve(ctx, cfg, log); err != nil {
		log.Error("agent failed", "err", err)
		return exitFailed
	}
	return exitOK
}

func readConfig(path string) (config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && path == defaultConfig {
		return parseConfig("", nil)
	}
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseConfig(path, data)
}

func newLogger(c logConfig, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if c.Format == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	return slog.New(rpc.LogHandler(h))
}

// version as the go command stamped it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
