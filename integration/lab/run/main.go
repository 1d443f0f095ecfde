// Command run runs a program in namespaces of its own: what the program
// starts, mounts and plugs goes with it, and the host stays as it is.
//
//	go test -exec 'PATH/TO/run' ./...
package main

import (
	"fmt"
	"os"

	"github.com/causeway-project/causeway/integration/lab"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: run PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	os.Exit(lab.Run(os.Args[1:]))
}
