package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/causeway-project/causeway/agent/model"
)

// A readiness is the answer of /readyz.
type readiness struct {
	Ready      bool              `json:"ready"`
	InSync     bool              `json:"in_sync"`
	Subsystems []subsystemStatus `json:"subsystems"`
}

type subsystemStatus struct {
	Name    string        `json:"name"`
	Verdict model.Verdict `json:"verdict"`
	Message string        `json:"message,omitempty"`
}

// ready when in sync and no part of the agent fails.
func readinessOf(n model.Node) readiness {
	r := readiness{Ready: n.InSync, InSync: n.InSync, Subsystems: []subsystemStatus{}}
	for _, s := range n.Subsystems {
		r.Subsystems = append(r.Subsystems, subsystemStatus(s))
		r.Ready = r.Ready && s.Verdict != model.Fail
	}
	return r
}

// handler serves /metrics, /healthz and /readyz.
func (s *service) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		s.core.Collector(),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError, // one broken metric must not hide the others
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.alive() {
			http.Error(w, "the reconciler does not move", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		n, err := s.core.Node(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer := readinessOf(n)
		w.Header().Set("Content-Type", "application/json")
		if !answer.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer) // fails when the caller went away
	})
	return mux
}

// newHTTP bounds how long a slow client can hold a connection.
func newHTTP(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
