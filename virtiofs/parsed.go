package virtiofs

import (
	"crypto/sha256"
	"sync"
)

// maxParsed documents are remembered: the live one and the definition of each
// of some hundred instances.
const maxParsed = 512

// parsed remembers what documents of libvirt say. An attach looks at its
// instance half a dozen times, and reading the XML takes longer than libvirt
// does to write it. The zero value is ready.
type parsed struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]Instance
}

// instance is parseInstance. Its slices are shared: nobody may change them.
func (p *parsed) instance(doc string) (Instance, error) {
	sum := sha256.Sum256([]byte(doc))
	p.mu.Lock()
	i, ok := p.known[sum]
	p.mu.Unlock()
	if ok {
		return i, nil
	}
	i, err := parseInstance(doc)
	if err != nil {
		return Instance{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxParsed {
		p.known = map[[sha256.Size]byte]Instance{}
	}
	p.known[sum] = i
	return i, nil
}
