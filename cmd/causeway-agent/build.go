package main

import (
	"context"
	"errors"
	"log/slog"
)

// build makes the core out of the concrete parts that the configuration names;
// cleanup puts away what they hold, after the core's Run has returned.
func build(_ context.Context, _ config, _ *slog.Logger) (c core, cleanup func(), err error) {
	return nil, nil, errors.New("no core")
}
