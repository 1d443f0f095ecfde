// Causeway-launch becomes a confined program that outlives whoever ran it. The
// agent runs it, and package process says how.
package main

import (
	"fmt"
	"os"

	"github.com/causeway-project/causeway/agent/process"
)

func main() {
	// Reached only where it failed. The agent has read it on the status pipe;
	// this is for a person who runs it by hand.
	fmt.Fprintln(os.Stderr, "causeway-launch:", process.Launch())
	os.Exit(1)
}
