// Causeway-keeper starts a virtiofsd and keeps QEMU's connection to it, as
// package keeper says. The agent has causeway-launch run it.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/causeway-project/causeway/virtiofs/keeper"
)

func main() {
	var o keeper.Options
	flag.StringVar(&o.Dir, "dir", "", "run `directory`, for the report")
	flag.StringVar(&o.Socket, "socket", "", "`path` of the socket for QEMU")
	flag.BoolVar(&o.Inflight, "inflight", false, "virtiofsd notes its requests in flight when told to")
	flag.BoolVar(&o.OwnUsers, "own-users", false, "virtiofsd gets a user namespace of its own")
	flag.Parse()
	o.Program = flag.Args()
	if o.Dir == "" || o.Socket == "" || len(o.Program) == 0 {
		fmt.Fprintln(os.Stderr, "usage: causeway-keeper -dir DIRECTORY -socket PATH [-inflight] [-own-users] -- VIRTIOFSD [ARGUMENT...]")
		os.Exit(2)
	}
	if err := keeper.Run(o); err != nil {
		fmt.Fprintln(os.Stderr, "causeway-keeper:", err)
		os.Exit(1)
	}
}
