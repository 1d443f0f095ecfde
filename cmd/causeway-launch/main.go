// Causeway-launch becomes a confined program that outlives whoever ran it. The
// agent runs it, and package process says how.
package main

import (
	"fmt"
	"os"

	"github.com/causeway-project/causeway/agent/process"
)

func main() {
	// An error is reached only where it failed. The agent has read it on their
	// connection; this is for the journal, and for a person.
	if err := process.Launch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "causeway-launch:", err)
		os.Exit(1)
	}
}
