package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-project/causeway/agent/model"
	"github.com/causeway-project/causeway/agent/rpc"
)

// A core is the agent, as main needs it.
type core interface {
	rpc.Agent
	Run(context.Context) error
	Pulse() time.Time // when the reconciler last moved; means something once in sync
	InSync() bool
	Collector() prometheus.Collector
}

// A service is everything that runs.
type service struct {
	core     core
	log      *slog.Logger
	rpc      *rpc.Server
	grpc     net.Listener
	http     net.Listener // nil is off
	notify   notifier
	watchdog time.Duration // of systemd; 0 is off
}

// serve takes what only one agent may have, runs, and returns nil when ctx has
// ended and everything is put away. The data path goes on.
func serve(ctx context.Context, cfg config, log *slog.Logger) error {
	s := service{log: log, notify: newNotifier()}
	var err error
	if s.watchdog, err = watchdog(); err != nil {
		return fmt.Errorf("read the watchdog's interval from systemd: %w", err)
	}
	lock, err := lockState(cfg.StateDir)
	if err != nil {
		return err
	}
	defer lock.release()
	gid, err := socketGroup(cfg.Socket.Group, log)
	if err != nil {
		return err
	}
	if s.grpc, err = listen(cfg.Socket, gid); err != nil {
		return err
	}
	defer func() { _ = s.grpc.Close() }() // the server has closed it, unless there never was one
	if cfg.HTTP.Address != "" {
		if s.http, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.HTTP.Address); err != nil {
			return fmt.Errorf("serve metrics: %w; set http.address to a free port, or to \"\" for none", err)
		}
		defer func() { _ = s.http.Close() }()
	}
	if s.core, err = build(cfg, log); err != nil {
		return err
	}
	gids := cfg.Socket.AllowGIDs
	if gid != 0 {
		gids = append(gids, gid)
	}
	s.rpc = rpc.New(rpc.Options{
		Agent:       s.core,
		Logger:      log,
		AllowUIDs:   cfg.Socket.AllowUIDs,
		AllowGIDs:   gids,
		CallTimeout: time.Duration(cfg.CallTimeout),
	})
	return s.run(ctx)
}

const httpDrain = 2 * time.Second

// run until ctx ends or a part fails. Then calls are drained first, while the
// core still works for them, and the core stops last.
func (s *service) run(ctx context.Context) error {
	coreContext, stopCore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCore()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := s.core.Run(coreContext)
		if err == nil && coreContext.Err() == nil {
			err = errors.New("it ended by itself, a bug: report it")
		}
		if err != nil && coreContext.Err() == nil {
			return fmt.Errorf("reconciler: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		defer stopCore()
		return s.rpc.Serve(ctx, s.grpc)
	})
	if s.http != nil {
		server := newHTTP(s.handler(), s.log)
		g.Go(func() error {
			if err := server.Serve(s.http); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve metrics: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpDrain)
			defer cancel()
			if server.Shutdown(drain) != nil {
				_ = server.Close() // whoever is still reading metrics is cut off
			}
			return nil
		})
	}
	g.Go(func() error {
		s.report(ctx)
		return nil
	})
	err := g.Wait()
	s.log.Info("agent stopped, the data path goes on")
	return err
}

const (
	lookForSync = 20 * time.Millisecond
	lookAgain   = 5 * time.Second
	stalePulse  = 30 * time.Second // the core beats once a second
	startExtra  = 30 * time.Second // that systemd is asked to wait, again and again, for the first look at the host
)

// report tells systemd and gRPC health how the agent is, until ctx ends.
func (s *service) report(ctx context.Context) {
	s.tell("STATUS=looks at the host for the first time")
	defer s.tell("STOPPING=1", "STATUS=stopping; the data path goes on")
	var asked time.Time
	for !s.core.InSync() {
		if time.Since(asked) > startExtra/3 {
			s.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", startExtra.Microseconds()))
			asked = time.Now()
		}
		if !wait(ctx, lookForSync) {
			return
		}
	}
	s.rpc.MarkServing()
	s.tell("READY=1")
	every := lookAgain
	if s.watchdog > 0 {
		every = min(every, s.watchdog/4)
	}
	last := ""
	for {
		status := s.status(ctx)
		if status != last {
			s.tell("STATUS=" + oneLine(status))
			last = status
		}
		if s.watchdog > 0 && s.alive() {
			s.tell("WATCHDOG=1")
		}
		if !wait(ctx, every) {
			return
		}
	}
}

// alive while the reconciler moves, or has not begun to.
func (s *service) alive() bool {
	limit := stalePulse
	if s.watchdog > 0 {
		limit = min(limit, s.watchdog/2)
	}
	return !s.core.InSync() || time.Since(s.core.Pulse()) < limit
}

// status in a line, for systemctl status.
func (s *service) status(ctx context.Context) string {
	n, err := s.core.Node(ctx)
	if err != nil {
		return "in sync; " + err.Error()
	}
	line := "in sync"
	if len(n.Damaged) > 0 {
		line += fmt.Sprintf("; %d damaged ledger files", len(n.Damaged))
	}
	for _, sub := range n.Subsystems {
		if sub.Verdict != model.Pass {
			line += "; " + sub.Name + ": " + sub.Message
		}
	}
	return line
}

func (s *service) tell(assignments ...string) {
	if err := s.notify.send(assignments...); err != nil {
		s.log.Warn("systemd did not take a notification", "err", err)
	}
}

// wait is false when ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
