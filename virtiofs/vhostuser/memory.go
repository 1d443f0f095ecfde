package vhostuser

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// memory is the guest's memory, as one may write it.
type memory struct {
	parts []part
}

type part struct {
	region
	mapped []byte // all of it; the region is its end
}

// mapMemory maps all regions. From the beginning of their files, as everybody
// does: with huge pages an offset may not be one that mmap takes.
func mapMemory(rs []region) (*memory, error) {
	m := &memory{}
	for _, r := range rs {
		b, err := unix.Mmap(r.fd, 0, int(r.offset+r.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
		if err != nil {
			m.close()
			return nil, fmt.Errorf("map the guest's memory: %w", os.NewSyscallError("mmap", err))
		}
		m.parts = append(m.parts, part{r, b})
	}
	return m, nil
}

func (m *memory) close() {
	for _, p := range m.parts {
		_ = unix.Munmap(p.mapped)
	}
	m.parts = nil
}

// at returns the n bytes at the guest's address a, nil where they are not all in
// one region.
func (m *memory) at(a, n uint64) []byte {
	for i := range m.parts {
		if p := &m.parts[i]; a >= p.guest && a-p.guest < p.size {
			return p.slice(a-p.guest, n)
		}
	}
	return nil
}

// atUser is at for an address of QEMU's.
func (m *memory) atUser(a, n uint64) []byte {
	for i := range m.parts {
		if p := &m.parts[i]; a >= p.user && a-p.user < p.size {
			return p.slice(a-p.user, n)
		}
	}
	return nil
}

func (p *part) slice(from, n uint64) []byte {
	if n > p.size-from {
		return nil
	}
	from += p.offset
	return p.mapped[from : from+n : from+n]
}
