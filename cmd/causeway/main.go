// Causeway is the command line of the node agent.
//
// Exit codes: 0 done; 1 failed; 2 wrong usage or a request that must be
// corrected; 3 not found; 4 in conflict, or a precondition is not met; 5 the
// agent or something it needs is away, busy or slow: the same command may
// succeed later; 6 not allowed; 130 interrupted.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := &cli{in: os.Stdin, out: os.Stdout, errs: os.Stderr, now: time.Now}
	code := c.run(ctx, os.Args[1:], os.Getenv("CAUSEWAY_SOCKET"))
	stop()
	os.Exit(code)
}
