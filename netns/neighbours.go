package netns

import (
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/causeway-project/causeway/netns/firewall"
)

// door is what the namespace's firewall lets through.
func (h *Host) door(n Network) firewall.Door {
	d := firewall.Door{
		Interface: n.inside(), TCP: n.TCPPorts, UDP: n.UDPPorts, Prefixes: n.Addresses, Neighbours: h.neighbours,
	}
	if p, ok := n.provided(); ok {
		d.Owner = p.Owner
	}
	return d
}

const (
	kernelTable     = 1024 // the kernel's own gc_thresh3
	leastNeighbours = 256  // as many as a /24 has
	mostNeighbours  = 4096
)

// neighbours is how many machines of each family a network may come to know by
// their asking, and as many by their being answered: a sixteenth of the host's
// table. With the kernel's own size that is little, so that a whole /24 is let
// through, and two hostile networks could fill the table.
func neighbours() int {
	return min(max(NeighbourTable()/16, leastNeighbours), mostNeighbours)
}

// NeighbourTable is how many neighbours of one family this host and all its
// namespaces together may know: the smaller of both families'.
func NeighbourTable() int {
	size := math.MaxInt
	for _, family := range []string{"ipv4", "ipv6"} {
		// The files are in the host's namespace alone.
		b, err := os.ReadFile("/proc/sys/net/" + family + "/neigh/default/gc_thresh3")
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			size = min(size, n)
		}
	}
	if size == math.MaxInt {
		return kernelTable
	}
	return size
}
